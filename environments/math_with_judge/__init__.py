"""Problems with one mathematical answer, checked by algebra and, where asked for, by a judge."""
