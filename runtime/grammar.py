"""From a form of answer to llguidance's matcher of it."""

import json

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, grammar_from

from runtime.errors import RequestError
from runtime.guided_schema import guided_schema
from runtime.structured_outputs import PARAM, StructuredOutputs

MAX_MESSAGE_CHARS = 400
# llguidance tells a limit that was hit from a mistake by its words alone
LIMIT_WORDS = ("too many", "too large", "too deeply", "too complex", "max is", "limit", "fuel")


def start_matcher(wanted: StructuredOutputs, tokenizer: LLTokenizer) -> LLMatcher:
    """A matcher at the beginning of an answer.

    Raises:
        RequestError: it cannot be compiled; code "invalid_schema" or "schema_too_complex".
    """
    limits = LLParserLimits(verbose_errors=False)  # else an error repeats the grammar
    matcher = LLMatcher(tokenizer, _grammar(wanted), log_level=0, limits=limits)
    check_matcher(matcher, wanted)
    matcher.compute_bitmask()  # a grammar without any text is found here, and not before
    check_matcher(matcher, wanted)
    return matcher


def check_matcher(matcher: LLMatcher, wanted: StructuredOutputs) -> None:
    """Refuses what has failed, in the compiler's words.

    Raises:
        RequestError: code "invalid_schema" or "schema_too_complex".
    """
    if matcher.is_error():
        problem = failure(matcher)
        too_complex = any(words in problem for words in LIMIT_WORDS)
        code = "schema_too_complex" if too_complex else "invalid_schema"
        param = f"{PARAM}.{wanted.kind}"
        raise RequestError(f"{param}: {problem}", param=param, code=code)


def failure(matcher: LLMatcher) -> str:
    """Why a matcher failed, in one line."""
    text, _, _ = matcher.get_error().partition("<non-verbose/>")
    line = " ".join(text.split())[:MAX_MESSAGE_CHARS]
    return "nothing can match it" if line.startswith("NoExtension") else line


def _grammar(wanted: StructuredOutputs) -> str:
    match wanted.kind:
        case "json":
            assert isinstance(wanted.json, str)
            return _from_schema(wanted.json)
        case "json_object":
            return _from_schema('{"type":"object"}')
        case "choice":
            return LLMatcher.grammar_from_regex("|".join(map(_literal, wanted.choice)))
        case "regex":
            return LLMatcher.grammar_from_regex(wanted.regex or "")
        case _:
            return _from_text(wanted.grammar or "")


def _from_schema(schema: str) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(guided_schema(json.loads(schema)))
    except ValueError as error:  # a number past 64 bits
        param = f"{PARAM}.json"
        raise RequestError(f"{param}: {error}", param=param, code="invalid_schema") from None


def _from_text(grammar: str) -> str:
    try:
        return grammar_from("grammar", grammar)
    except ValueError as error:  # only the conversion of GBNF raises
        param = f"{PARAM}.grammar"
        raise RequestError(f"{param}: {error}", param=param, code="invalid_schema") from None


def _literal(text: str) -> str:
    """A pattern of this text alone: whatever could mean something there is a number."""
    plain = (c if c.isalnum() or not c.isascii() else f"\\x{{{ord(c):x}}}" for c in text)
    return "".join(plain)
