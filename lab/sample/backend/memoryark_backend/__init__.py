"""A small stand-in for MemoryArk's API server that keeps the real one's contract."""
