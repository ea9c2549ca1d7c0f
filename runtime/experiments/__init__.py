"""Experiments on the served model: the pure function, reading and changing its inner values."""
