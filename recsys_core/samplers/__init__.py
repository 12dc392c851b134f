"""Negative samplers, one per file."""
