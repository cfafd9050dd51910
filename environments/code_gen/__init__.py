"""Programs judged by test cases."""
