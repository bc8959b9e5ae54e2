"""Who won, how surely, at what cost: statistics of finished runs. Reads files and computes; needs neither torch nor the model."""
