"""The feature engine: one configured set of features, fitted."""
