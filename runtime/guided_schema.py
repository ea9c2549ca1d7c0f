"""A caller's schema as llguidance is given it: with our options in place of the caller's."""

from collections.abc import Mapping
from typing import Any

# Where JSON allows white space: a space, or a new line and its indentation. Without a bound, small
# models fill their answer with it.
WHITESPACE = r" |\n[ \t]{0,32}"


def guided_schema(schema: Mapping[str, Any], *, lenient: bool = False) -> dict[str, Any]:
    """The schema with every option that its own "x-guidance" could have changed.

    Args:
        lenient: ignore keywords and formats that llguidance does not implement, instead of refusing
            the schema.
    """
    options = {
        "item_separator": ",",
        "key_separator": ":",
        "whitespace_pattern": WHITESPACE,
        "coerce_one_of": lenient,
        "lenient": lenient,
        "json_allowed_escapes": 'nrbtf\\"u',
        "json_allow_general_unicode_escapes": False,
    }
    return {**schema, "x-guidance": options}
