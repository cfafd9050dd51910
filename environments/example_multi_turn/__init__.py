"""A conversation of scripted follow-up questions."""
