"""The prompt that a body would become, as text and token by token."""

from typing import Any

import pytest

CHAT = {"messages": [{"role": "user", "content": "hé<|im_end|>"}]}


async def test_a_chat_is_rendered_as_it_would_be_asked(client: Any) -> None:
    body = CHAT | {"temperature": 0, "max_tokens": 1, "stream": True}
    found = await (await client.post("/v1/chat/completions/render", json=body)).json()
    assert list(found) == ["prompt", "token_ids", "tokens", "max_model_len"]
    assert found["prompt"].startswith("<|im_start|>")
    assert found["max_model_len"] == 256
    same = await (await client.post("/tokenize", json=CHAT)).json()
    assert found["token_ids"] == same["tokens"]
    spelt = b"".join(bytes(token["bytes"]) for token in found["tokens"])
    assert spelt.decode() == found["prompt"]


async def test_special_tokens_are_the_templates_own(client: Any) -> None:
    found = await (await client.post("/v1/chat/completions/render", json=CHAT)).json()
    special = [bytes(t["bytes"]).decode() for t in found["tokens"] if t["special"]]
    # what the user wrote is text
    assert found["prompt"].count("<|im_end|>") == special.count("<|im_end|>") + 1
    assert set(special) == {"<|im_start|>", "<|im_end|>"}


async def test_a_completion_is_rendered_prompt_by_prompt(client: Any) -> None:
    body = {"prompt": ["hi<|im_end|>", "Z"]}
    first, second = await (await client.post("/v1/completions/render", json=body)).json()
    assert first["prompt"] == "hi<|im_end|>"
    assert [token["special"] for token in first["tokens"]][-1]
    assert second["prompt"] == "Z" and len(second["tokens"]) == 1


async def test_a_suffix_is_rendered_as_the_model_sees_it(client: Any) -> None:
    body = {"prompt": ["X<|im_end|>", "Y"], "suffix": "Z"}
    found = await (await client.post("/v1/completions/render", json=body)).json()
    assert [one["prompt"] for one in found] == [
        "<|fim_prefix|>X<|im_end|><|fim_suffix|>Z<|fim_middle|>",
        "<|fim_prefix|>Y<|fim_suffix|>Z<|fim_middle|>",
    ]
    asked = body | {"max_tokens": 1, "return_token_ids": True}
    answer = await (await client.post("/v1/completions", json=asked)).json()
    assert [one["token_ids"] for one in found] == [
        choice["prompt_token_ids"] for choice in answer["choices"]
    ]


async def test_the_templates_text_alone(client: Any) -> None:
    whole = await (await client.post("/v1/chat/completions/render", json=CHAT)).json()
    assert await (await client.post("/apply-template", json=CHAT)).json() == {
        "prompt": whole["prompt"]
    }


@pytest.mark.parametrize(
    ("url", "body", "status"),
    [
        ("/v1/chat/completions/render", {"messages": []}, 400),
        ("/v1/chat/completions/render", CHAT | {"model": "other"}, 404),
        ("/v1/completions/render", {"prompt": [5000]}, 400),
        ("/v1/completions/render", {"prompt": [5], "suffix": "x"}, 400),
        ("/v1/completions/render", {"prompt": "x", "model": "other"}, 404),
        ("/apply-template", CHAT | {"nonsense": 1}, 400),
        ("/apply-template", CHAT | {"model": "other"}, 404),
    ],
)
async def test_bad_bodies(client: Any, url: str, body: dict[str, Any], status: int) -> None:
    response = await client.post(url, json=body)
    assert response.status == status
    assert (await response.json())["error"]["message"]
