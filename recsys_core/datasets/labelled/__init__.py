"""Labelled tables, one kind of source per file: what ranking models are trained on, in splits and without days."""
