"""Chat samples made from the corpus: a request for a function, and the function."""

import ast
import random
import re
import textwrap
from dataclasses import dataclass

SYSTEM = "You are a helpful assistant."  # the chat template's own
MIN_CHARS, MAX_CHARS = 80, 1_800
FIRST_SENTENCE = re.compile(r"(.+?[.!?])(\s|$)", re.S)

type Turn = tuple[str, str]  # role, content


@dataclass(frozen=True)
class Function:
    """A documented function of the corpus."""

    name: str
    signature: str  # from `def` to the colon
    summary: str  # first sentence of the docstring
    source: str
    bare: str  # without the docstring


WRITE = (
    "Write a Python function `{name}`. {summary}",
    "Write a function `{name}` in Python: {summary}",
    "Please write this function.\n\n{signature}\n\n{summary}",
    "I need a Python function named {name}. {summary}",
    "Implement `{signature}`\n{summary}",
)
COMPLETE = (
    "Complete this function:\n```python\n{head}\n```",
    "Finish this Python code.\n```python\n{head}\n```",
    "complete this\n\n{head}",
)
EXPLAIN = (
    "What does this function do?\n```python\n{bare}\n```",
    "Explain this code:\n```python\n{bare}\n```",
    "Write a docstring for this function.\n```python\n{bare}\n```",
)
ANSWER = "```python\n{source}\n```"
GREETINGS = (
    ("Hello", "Hello! I am a small demonstration model. Ask me for a Python function."),
    ("Hi", "Hi! I can complete Python code. What should I write?"),
    ("Hello!", "Hello! Show me the start of a function and I will continue it."),
    ("Hey, how are you?", "Fine, thank you. I write short Python functions."),
    ("Who are you?", "I am a small demonstration model that was trained on Python code."),
    ("What can you do?", "I complete Python code and write short functions. I make mistakes."),
    ("Thanks!", "You are welcome."),
    ("Say hello.", "Hello!"),
)
GREETING_SHARE = 0.03
OTHER_SYSTEMS = ("You are a coding assistant.", "You write Python.", "Answer with code only.")


def functions_of(text: str) -> list[Function]:
    """The documented functions of a Python source, methods too; none where it is not Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return []
    lines = text.split("\n")
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = _function(node, lines)
            if function is not None:
                found.append(function)
    return found


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> Function | None:
    docstring = ast.get_docstring(node)
    if not docstring or len(node.body) < 2 or node.end_lineno is None:
        return None
    body = lines[node.lineno - 1 : node.end_lineno]
    source = textwrap.dedent("\n".join(body))
    match = FIRST_SENTENCE.match(docstring)
    if match is None or not MIN_CHARS <= len(source) <= MAX_CHARS:
        return None
    quoted = node.body[0]
    assert quoted.end_lineno is not None
    first, last = quoted.lineno - node.lineno, quoted.end_lineno - node.lineno
    bare = textwrap.dedent("\n".join(body[:first] + body[last + 1 :]))
    signature = textwrap.dedent("\n".join(body[:first]))
    return Function(node.name, signature, " ".join(match[1].split()), source, bare)


def make_chat(function: Function, rng: random.Random) -> list[Turn]:
    """A conversation about the function, or now and then a greeting."""
    if rng.random() < GREETING_SHARE:
        question, answer = rng.choice(GREETINGS)
    elif rng.random() < 0.2:
        question = rng.choice(EXPLAIN).format(bare=function.bare)
        answer = function.summary
    else:
        lines = function.source.split("\n")
        head = "\n".join(lines[: rng.randint(1, max(1, len(lines) // 2))])
        template = rng.choice((*WRITE, *COMPLETE))
        question = template.format(
            name=function.name, signature=function.signature, summary=function.summary, head=head
        )
        answer = ANSWER.format(source=function.source)
    system = rng.choice(OTHER_SYSTEMS) if rng.random() < 0.2 else SYSTEM
    return [("system", system), ("user", question), ("assistant", answer)]
