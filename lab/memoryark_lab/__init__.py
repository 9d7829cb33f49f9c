"""Disposable test hosts."""
