"""Learning rate as a factor of the peak, over the updates of a stage."""
