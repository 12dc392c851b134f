"""Readers, one per file: a table in blocks that any rank can read alone."""
