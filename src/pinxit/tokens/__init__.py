"""Sequences of tokens over any callable: which may look at which, and how the next is drawn; knows no network."""
