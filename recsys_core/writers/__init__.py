"""Writers, one per file: one part of a table for each rank."""
