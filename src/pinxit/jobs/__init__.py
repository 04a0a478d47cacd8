"""Resumable maps over data that is too slow to do twice."""
