"""Which samples, tasks and domains a step sees."""
