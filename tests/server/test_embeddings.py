"""Embeddings: every form of input, both encodings, and what is refused."""

import base64
import struct
from typing import Any

import openai
import pytest

URL = "/v1/embeddings"


async def ask(client: Any, status: int = 200, **body: Any) -> Any:
    response = await client.post(URL, json=body)
    found = await response.json()
    assert response.status == status, found
    return found


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        ("XYZW", [4]),
        (["XYZW", "XY"], [4, 2]),
        ([1, 2, 3, 4], [4]),
        ([[1, 2, 3, 4], [5]], [4, 1]),
    ],
)
async def test_each_input_has_a_vector_of_length_one(
    client: Any, given: Any, lengths: list[int]
) -> None:
    found = await ask(client, input=given)
    assert found["object"] == "list" and found["model"] == "tiny"
    assert found["usage"] == {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)}
    for index, (entry, length) in enumerate(zip(found["data"], lengths, strict=True)):
        assert (entry["object"], entry["index"]) == ("embedding", index)
        norm = (9 + length**2) ** 0.5  # the stand-in's vector is (3, length, 0)
        assert entry["embedding"] == pytest.approx([3 / norm, length / norm, 0.0])


async def test_base64_holds_the_same_numbers(client: Any) -> None:
    numbers = (await ask(client, input="XYZW", dimensions=3))["data"][0]["embedding"]
    text = (await ask(client, input="XYZW", encoding_format="base64"))["data"][0]["embedding"]
    assert list(struct.unpack("<3f", base64.b64decode(text))) == numbers


async def test_the_mean_is_asked_for_by_name(client: Any) -> None:
    last = (await ask(client, input="XY", pooling="last"))["data"][0]["embedding"]
    mean = (await ask(client, input="XY", pooling="mean"))["data"][0]["embedding"]
    assert last[0] == -mean[0]


async def test_the_official_client(client: Any) -> None:
    url = f"http://127.0.0.1:{client.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="x") as ai:
        found = await ai.embeddings.create(model="tiny", input=["XYZW", "XY"])
        assert len(found.data) == 2 and len(found.data[0].embedding) == 3
        plain = await ai.embeddings.create(model="tiny", input="XYZW", encoding_format="float")
        assert plain.data[0].embedding == pytest.approx(found.data[0].embedding)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["a", 5]}, "input"),
        ({"input": [99999]}, "input"),
        ({"input": "x" * 300}, "input"),
        ({"input": "x", "dimensions": 2}, "dimensions"),
        ({"input": "x", "pooling": "cls"}, "pooling"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"input": "x", "task": "query"}, "task"),
    ],
)
async def test_what_cannot_be_given_is_named(client: Any, body: dict[str, Any], param: str) -> None:
    error = (await ask(client, 400, **body))["error"]
    assert error["param"] == param
