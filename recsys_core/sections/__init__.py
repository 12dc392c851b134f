"""Sections of the config whose rooms import torch: here, so that a config is checked without it."""
