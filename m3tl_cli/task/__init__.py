"""Kinds of task: what a target looks like, loss, metrics with direction and unit, how a prediction is decoded and drawn."""
