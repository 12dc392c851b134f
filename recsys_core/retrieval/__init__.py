"""Retrieval by two towers: its stages, from the log to measured and indexed vectors."""
