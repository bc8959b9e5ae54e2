"""Optimisers of the outer parameters."""
