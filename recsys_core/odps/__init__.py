"""MaxCompute (ODPS) tables: paths, credentials, a client that loses no row, and an emulator to test against.

`readers.odps` and `writers.odps` are what the pipeline uses; this package knows the wire.
"""
