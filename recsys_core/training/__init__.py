"""Training, whatever is trained: the loop, its state, and what is seen of it."""
