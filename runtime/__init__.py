"""Requests, pages, the step, sampling, compiled programs. Knows no HTTP."""
