"""Metrics, one family per file: arrays in, numbers out."""
