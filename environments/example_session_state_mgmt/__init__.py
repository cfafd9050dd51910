"""A counter that each attempt has for itself."""
