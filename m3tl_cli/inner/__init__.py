"""Bi-level algorithms: how parameters adapt on support, and what of the outcome reaches phi."""
