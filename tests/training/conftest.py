"""A tiny corpus and a tokenizer for it."""

import random

import pytest
from tokenizers import Tokenizer

from training.corpus import Document
from training.tokenizer import train

SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sta", "vex", "zum")
NAMES = ("alpha", "beta", "gamma", "delta", "value", "total", "count", "items", "name", "path")


def make_document(number: int) -> Document:
    rng = random.Random(number)
    parts = ["import os\n\n"]
    for _ in range(rng.randint(2, 12)):
        _, left, right = rng.choices(NAMES, k=3)
        # enough different words for a vocabulary
        function = "".join(rng.choices(SYLLABLES, k=3))
        parts.append(
            f"\ndef {function}_{rng.randint(0, 9)}({left}, {right}):\n"
            f'    """Returns the {function} of {left} and {right}."""\n'
            f"    {left} = {left} + {rng.randint(0, 9)}\n"
            f"    if {left} > {right}:\n"
            f"        print({left})\n"
            f"    return {left} + {right}\n"
        )
    return Document(f"toy/module_{number}.py", "".join(parts))


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    return [make_document(number) for number in range(200)]


@pytest.fixture(scope="session")
def tokenizer(documents: list[Document]) -> Tokenizer:
    return train((document.text for document in documents), 512)
