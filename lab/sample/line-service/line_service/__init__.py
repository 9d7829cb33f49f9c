"""A small stand-in for MemoryArk's LINE bot that keeps the real one's contract."""
