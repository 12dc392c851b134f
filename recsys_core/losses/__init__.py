"""Losses, one per file: they see embeddings and row numbers, never a model."""
