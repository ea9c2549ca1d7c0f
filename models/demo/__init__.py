"""The demonstration model that ships with ggjax; docs/model_card.md says what it is."""

from pathlib import Path

NAME = "demo"  # what stands for it in place of a path
PATH = Path(__file__).with_name("ggjax-demo-coder-q8_0.gguf")
