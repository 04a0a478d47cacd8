"""Captions and tokenizers; knows no torch."""
