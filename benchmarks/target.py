"""The server under load: what it serves, its tokenizer, the bodies of its requests."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from benchmarks.lengths import Sample
from benchmarks.load_client import Planned

ENDPOINTS = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}
READY_SECONDS = 0.2  # between two looks
SMALL_VOCABULARY = 1000  # ids that every model has


class Target:
    """A server, spoken to before the load begins.

    Args:
        base_url: with the scheme and without the endpoint.
        model: its name in requests; None for the first that the server lists.
        wait: seconds that it may take to become ready.

    Raises:
        ValueError: there is no such server, or it does not list its models.
    """

    def __init__(
        self, base_url: str, *, model: str | None, headers: Mapping[str, str], wait: float = 0.0
    ):
        self.base_url = base_url.rstrip("/")
        self.headers = dict(headers)
        listed = self._models(time.monotonic() + wait)
        if not listed:
            raise ValueError(f"{self.base_url}/v1/models lists no model")
        entry = next((item for item in listed if item["id"] == model), listed[0])
        self.model: str = model or entry["id"]
        self.vocab_size: int = (entry.get("meta") or {}).get("n_vocab", SMALL_VOCABULARY)

    def _models(self, deadline: float) -> Any:
        while True:
            try:
                return self._call("/v1/models").get("data")
            except ValueError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(READY_SECONDS)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, by the server's own `/tokenize`.

        Raises:
            ValueError: it has no such route.
        """

        def ids(text: str) -> list[int]:
            body = {"model": self.model, "prompt": text, "add_special_tokens": False}
            tokens: list[int] = self._call("/tokenize", body)["tokens"]
            return tokens

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(ids, texts))

    def detokenize(self, prompts: Sequence[list[int]]) -> list[str]:
        """The text of each prompt, by `/detokenize`.

        Raises:
            ValueError: it has no such route.
        """

        def text(ids: list[int]) -> str:
            body = {"model": self.model, "tokens": ids}
            prompt: str = self._call("/detokenize", body)["prompt"]
            return prompt

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(text, prompts))

    def plan(
        self,
        samples: Sequence[Sample],
        offsets: Sequence[float],
        *,
        backend: str,
        options: Mapping[str, Any],
    ) -> list[Planned]:
        """The requests of a load.

        Args:
            offsets: when each is sent, in seconds.
            backend: "openai" sends ids or text as they are, "openai-chat" text as a message.
            options: more fields of each body.
        """
        prompts: list[list[int] | str] = [sample.prompt for sample in samples]
        if backend == "openai-chat":
            ids = [prompt for prompt in prompts if not isinstance(prompt, str)]
            texts = iter(self.detokenize(ids))
            prompts = [prompt if isinstance(prompt, str) else next(texts) for prompt in prompts]
        return [
            Planned(
                body=self._body(backend, prompt, sample.output_len, options),
                offset=offset,
                prompt_len=sample.prompt_len,
                output_len=sample.output_len,
            )
            for sample, prompt, offset in zip(samples, prompts, offsets, strict=True)
        ]

    def _body(
        self, backend: str, prompt: list[int] | str, max_tokens: int, options: Mapping[str, Any]
    ) -> bytes:
        if backend == "openai-chat":
            asked: dict[str, Any] = {
                "messages": [{"role": "user", "content": prompt}],
                "max_completion_tokens": max_tokens,
            }
        else:
            asked = {"prompt": prompt, "max_tokens": max_tokens}
        common = {
            "model": self.model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return msgspec.json.encode({**common, **asked, **options})

    def _call(self, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.base_url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"} | self.headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise ValueError(f"{self.base_url}{path}: {error}") from error
