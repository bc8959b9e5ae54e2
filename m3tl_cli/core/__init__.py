"""Floor 1: types, protocols and errors. Imports torch and the standard library only."""
