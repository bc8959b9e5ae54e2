"""Heads of tasks with one output per sample."""
