"""Switches become stages, and a stage's episodes become one gradient. Nothing above this floor knows a paradigm."""
