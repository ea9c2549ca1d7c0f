"""Which files of a package are text that somebody wrote, and what of them is kept."""

import ast
import re
import warnings
from pathlib import PurePosixPath

SUFFIXES = frozenset({".py", ".pyi", ".md", ".rst"})
MIN_CHARS, MAX_CHARS = 200, 60_000
MAX_LINE = 400
MAX_MEAN_LINE = 90
MAX_DIGITS = 0.12  # of all characters: above it is a table
MAX_LITERALS = 0.6  # of all expressions and statements: above it is a table too
MAX_FOREIGN = 0.05  # characters outside ASCII
PARSE_CHARS = 20_000  # shorter files are small enough not to be tables

# Other people's code under other licences, and files that programs wrote.
SKIPPED_FOLDERS = frozenset(
    "_vendor _vendored vendor vendored third_party thirdparty extern externals _externals packages"
    " migrations versions locale locales data testdata test_data fixtures snapshots generated"
    " node_modules static lib2to3 pydecimal".split()
)
TEST_FOLDERS = frozenset({"test", "tests", "testing"})
GENERATED = re.compile(
    r"(auto-?|automatically )generated|generated (by|from|with)|do not (edit|modify)", re.I
)
OTHER_LICENCE = re.compile(
    r"General Public Licen[cs]e|\bA?L?GPL|Mozilla Public|Creative Commons|SPDX-License-Identifier:"
    r"\s*(?!Apache-2|BSD-|MIT|ISC|PSF)\S",
    re.I,
)
LICENCE_WORDS = re.compile(r"copyright|licen[cs]ed?\b|©|all rights reserved|SPDX", re.I)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]|<\|[a-z_]+\|>")


def is_candidate(path: str) -> bool:
    """Whether a path inside an archive is worth opening."""
    place = PurePosixPath(path)
    return place.suffix in SUFFIXES and not SKIPPED_FOLDERS & {
        part.lower() for part in place.parts[:-1]
    }


def is_test(path: str) -> bool:
    """Whether a path is that of a test, which packages have too many of."""
    *folders, name = PurePosixPath(path).parts
    return name.startswith(("test_", "conftest.")) or not TEST_FOLDERS.isdisjoint(folders)


def clean(path: str, raw: bytes) -> str | None:
    """The text to learn from, or None: undecodable, huge, generated, minified or data."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\x0c", "")
    if OTHER_LICENCE.search(text[:3_000]) or GENERATED.search(text[:600]) or CONTROL.search(text):
        return None
    text = without_licence(text) if path.endswith((".py", ".pyi")) else text
    text = "\n".join(line.rstrip() for line in text.split("\n")).strip("\n") + "\n"
    if not MIN_CHARS <= len(text) <= MAX_CHARS or not reads_like_text(text):
        return None
    if path.endswith((".py", ".pyi")) and not reads_like_code(text):
        return None
    return text


def without_licence(text: str) -> str:
    """Python without the comment blocks about copyright that thousands of files begin with."""
    lines = text.split("\n")
    end = 0
    while end < len(lines) and (not lines[end].strip() or lines[end].startswith("#")):
        end += 1
    blocks = "\n".join(lines[:end]).strip("\n").split("\n\n")
    kept = [block.strip("\n") for block in blocks if not LICENCE_WORDS.search(block)]
    if len(kept) == len(blocks):
        return text
    return "\n\n".join([*kept, "\n".join(lines[end:])])


def reads_like_text(text: str) -> bool:
    """Lines of a length that people write, few digits, little that is not ASCII."""
    lines = [line for line in text.split("\n") if line]
    if max(map(len, lines)) > MAX_LINE or sum(map(len, lines)) / len(lines) > MAX_MEAN_LINE:
        return False
    digits = sum(map(text.count, "0123456789"))
    foreign = len(text) - len(text.encode("ascii", "ignore"))
    return digits <= MAX_DIGITS * len(text) and foreign <= MAX_FOREIGN * len(text)


def reads_like_code(text: str) -> bool:
    """Python that parses today, and that is more than a table of literals."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if len(text) < PARSE_CHARS:
        return True
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.expr | ast.stmt)]
    literals = sum(isinstance(node, ast.Constant) for node in nodes)
    return literals <= MAX_LITERALS * len(nodes)
