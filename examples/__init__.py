"""Experiments as short scripts; `python -m examples.NAME` writes the picture NAME.svg."""
