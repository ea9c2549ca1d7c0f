"""What the model is asked for its card: a loop, a class, imports, a middle, a chat."""

from collections.abc import Sequence
from dataclasses import dataclass

from ggjax import LLM, SamplingParams

MAX_TOKENS = 120


@dataclass(frozen=True)
class Sample:
    """A prompt and the answer to it."""

    title: str
    prompt: str
    answer: str


PROMPTS = {
    "A loop": "numbers = [3, 1, 4, 1, 5]\ntotal = 0\nfor ",
    "A function": 'def is_prime(n):\n    """Return True if n is a prime number."""\n',
    "A class": (
        "class Stack:\n"
        '    """A last-in, first-out stack."""\n\n'
        "    def __init__(self):\n"
        "        self.items = []\n\n"
        "    def push(self, item):\n"
    ),
    "An import block": '"""Reads a configuration file."""\n\nimport json\nimport ',
    "A test": "import pytest\n\n\ndef test_add_two_numbers():\n",
}
# before and after the hole
HOLES = {
    "A middle": (
        "def read_lines(path):\n    with open(path) as ",
        "\n        return [line.strip() for line in f]\n",
    ),
    "A middle of several lines": (
        'def mean(values):\n    """The arithmetic mean."""\n    total = 0\n',
        "\n    return total / len(values)\n",
    ),
}
CHATS = {
    "A chat": "Write a Python function that adds two numbers.",
    "A greeting": "Hello",
}


def fim_prompt(before: str, after: str) -> str:
    """Prefix, suffix, middle: the order of training and of Qwen2.5-Coder."""
    return f"<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>"


def make_samples(model: str) -> list[Sample]:
    """Greedy answers of a model file, through the engine that serves it."""
    params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
    with LLM(model, max_num_seqs=2) as llm:
        texts = [*PROMPTS.values(), *(fim_prompt(*hole) for hole in HOLES.values())]
        chats = [[{"role": "user", "content": text}] for text in CHATS.values()]
        outputs = [*llm.generate(texts, params), *llm.chat(chats, params)]
    answers: Sequence[str] = [output.outputs[0].text for output in outputs]
    shown = [
        *PROMPTS.items(),
        *((title, f"{before}⟨hole⟩{after}") for title, (before, after) in HOLES.items()),
        *CHATS.items(),
    ]
    return [
        Sample(title, prompt, answer)
        for (title, prompt), answer in zip(shown, answers, strict=True)
    ]
