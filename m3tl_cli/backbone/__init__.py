"""The network between fusion and heads, in stages between which a sharing may mix columns."""
