"""Keeping a calendar free of conflicts while honouring what the user asked for."""
