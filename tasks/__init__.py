"""One verb per file: typed Prefect tasks, artifacts in and artifacts out. No torch here."""
