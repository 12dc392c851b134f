"""Catalogue of logs: where a shop's interactions, users and items come from."""
