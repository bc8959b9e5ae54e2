"""m3tl: train the same tasks under every way of sharing, and say which one won, by how much, how surely, at what cost."""
