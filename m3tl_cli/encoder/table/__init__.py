"""Encoders of tables."""
