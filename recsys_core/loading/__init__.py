"""From readers to batches: the order of rows, ranks' shares, threads that read ahead."""
