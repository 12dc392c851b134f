"""Launchers, one kind per file: what starts a stage on its ranks, on this machine or on those of a scheduler."""
