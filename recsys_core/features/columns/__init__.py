"""Columns of the log as features read them: bags of ids, lists, pairs, numbers, types, expressions."""
