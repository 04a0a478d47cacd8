"""Measures of what the systems make."""
