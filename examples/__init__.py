"""Experiments as short scripts; each draws one picture. Run with `python -m examples.NAME`."""
