"""Answers under the masks of every schema of a JSON Schema test suite, judged by another validator.

python -m benchmarks.schema_suite JSON-Schema-Test-Suite/tests/draft2020-12

No model is needed: tokens are drawn at random among those that a mask allows. The suite is at
github.com/json-schema-org/JSON-Schema-Test-Suite, and in the source distribution of `jsonschema`.
"""

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np

from models import demo
from models.gguf_file import open_gguf
from runtime.errors import RequestError
from runtime.guidance import GuideMaker, TokenGuide
from runtime.structured_outputs import StructuredOutputs
from runtime.text.tokenizer import Tokenizer, build_tokenizer

MAX_STEPS = 400
CLOSING = (b'"', b"]", b"}")  # with what a value that goes on may be brought to its end


def schemas_of(folder: Path) -> dict[str, Any]:
    """Every schema that is an object, by file and description."""
    return {
        f"{file.stem}: {case['description']}": case["schema"]
        for file in sorted(folder.rglob("*.json"))
        for case in json.loads(file.read_text())
        if isinstance(case["schema"], dict)
    }


def draw_answer(
    guide: TokenGuide, tokenizer: Tokenizer, closers: set[int], seed: int
) -> str | None:
    """The text of a random walk under a guide's masks; None if it comes to no end."""
    draw = random.Random(seed)
    written: list[int] = []
    mask = np.zeros(-(-tokenizer.vocab_size // 32), np.int32)
    for step in range(MAX_STEPS):
        guide.fill(mask)
        ids = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
        if draw.random() < step / 20:
            ids = [i for i in ids if i in closers] or ids
        chosen = draw.choice(ids)
        guide.accept(chosen)
        if chosen not in tokenizer.stop_ids:
            written.append(chosen)
        if guide.is_finished:
            return b"".join(map(tokenizer.token_bytes, written)).decode()
    return None


def judge(
    schema: dict[str, Any],
    maker: GuideMaker,
    tokenizer: Tokenizer,
    closers: set[int],
    num_answers: int,
) -> Counter[str]:
    """What became of a schema: refused, or served and how many answers were valid, and not."""
    try:
        guides = [maker.make(StructuredOutputs(json=schema)) for _ in range(num_answers)]
    except RequestError:
        return Counter(refused=1)
    validator = jsonschema.Draft202012Validator(schema)
    results: Counter[str] = Counter(served=1)
    for seed, guide in enumerate(guides):
        answer = draw_answer(guide, tokenizer, closers, seed)
        results["without an end" if answer is None else verdict(validator, answer)] += 1
    return results


def verdict(validator: Any, answer: str) -> str:
    """Whether the answer is valid; Python's patterns do not know all that schemas may use."""
    try:
        return "valid" if validator.is_valid(json.loads(answer)) else "invalid"
    except re.error:
        return "not judged"


def main() -> None:
    """Prints the totals, and the name of each schema with an answer that is not valid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--answers", type=int, default=4, help="random answers to each schema")
    options = parser.parse_args()
    tokenizer = build_tokenizer(open_gguf(demo.PATH).metadata)
    maker = GuideMaker(lambda: tokenizer)
    closers = set(tokenizer.stop_ids) | {
        i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i).startswith(CLOSING)
    }
    totals: Counter[str] = Counter()
    for name, schema in schemas_of(options.folder).items():
        results = judge(schema, maker, tokenizer, closers, options.answers)
        totals += results
        if results["invalid"]:
            print(f"{name}: {results['invalid']} of {options.answers} answers are not valid")
    print(", ".join(f"{count:,} {what}" for what, count in totals.items()))


if __name__ == "__main__":
    main()
