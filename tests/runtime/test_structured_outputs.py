"""The form of an answer is one of several kinds."""

import pytest

from runtime.errors import RequestError
from runtime.structured_outputs import StructuredOutputs


@pytest.mark.parametrize(
    ("given", "named"), [({}, "none"), ({"regex": "a", "json_object": True}, "regex and json_obj")]
)
def test_exactly_one_kind_is_given(given, named):
    with pytest.raises(RequestError, match=f"exactly one of .* got {named}") as caught:
        StructuredOutputs(**given)
    assert caught.value.param == "structured_outputs"


def test_choices_are_kept_as_a_tuple():
    assert StructuredOutputs(choice=["a", "b"]).choice == ("a", "b")
