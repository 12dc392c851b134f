"""Everything that does the work; knows nothing of Prefect."""
