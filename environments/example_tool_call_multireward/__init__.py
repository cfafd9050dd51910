"""One expected tool call, judged in three independent ways."""
