"""Finished runs as tables, plots and one page; reads run folders, never a model."""
