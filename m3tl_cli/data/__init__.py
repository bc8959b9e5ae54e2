"""Data: modalities, tasks, domains, splits, and the prepared store that a batch is read from."""
