"""Measurements of ggjax, and the model files they need. Uses the public face only."""
