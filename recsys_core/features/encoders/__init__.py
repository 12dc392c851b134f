"""Encoders: from ids and numbers to rows of embedding tables, and what they learn for it."""
