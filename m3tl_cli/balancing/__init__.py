"""Losses or gradients of several tasks in, one gradient out. One method, one file."""
