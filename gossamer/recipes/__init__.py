"""The streets: the only code that knows every room."""
