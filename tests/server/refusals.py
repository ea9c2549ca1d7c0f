"""Requests that are served, and what one that is not is told."""

import io
import json
from typing import Any

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
GOOD = {
    COMPLETIONS: {"prompt": "ab", "max_tokens": 1},
    CHAT: {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
}


async def refused(client: Any, url: str, body: Any, status: int = 400) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await client.post(
        url, data=io.BytesIO(raw), headers={"Content-Type": "application/json"}
    )
    text = await response.text()
    assert response.status == status, text
    error = json.loads(text)["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert isinstance(error["code"], str)
    for leak in ("/home", "/usr", "site-packages", "Traceback", "0x", "/tmp"):
        assert leak not in text
    return error
