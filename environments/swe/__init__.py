"""Issues in small repositories, solved with a shell and judged by hidden tests."""
