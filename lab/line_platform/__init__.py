"""A stand-in for the LINE platform."""
