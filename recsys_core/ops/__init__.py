"""Operators with gradients of their own."""
