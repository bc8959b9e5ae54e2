"""Episodes: which domain, which tasks, which samples an outer step sees."""
