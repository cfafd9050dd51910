"""Questions with short answers, which a judge compares with the expected ones."""
