"""The target stage: few shots, many episodes, every corner by one code path."""
