"""Models by name, against a stand-in of the hub on this machine; the network is never asked."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from server.hub import ModelNotFound, resolve_model

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_stand_in"
REPOS = {
    "org/coder": [
        "README.md",
        "coder-q3_k_m.gguf",
        "coder-q4_k.gguf",
        "coder-q4_k_m.gguf",
        "coder-q8_0-00001-of-00002.gguf",
        "coder-q8_0-00002-of-00002.gguf",
        "mmproj-coder-q4_k.gguf",
        "Q6_K/coder.gguf",
        "torn-q5_0-00001-of-00002.gguf",
        "one-f16.gguf",
        "two-f16.gguf",
    ],
    "org/gated": ["m-q4_0.gguf"],
    "org/empty": ["README.md"],
}

# In a process of its own: the library reads its environment once, when it is imported.
RESOLVE = """
import json, sys
from server.hub import ModelNotFound, resolve_model
for model in sys.argv[1:]:
    try:
        path = resolve_model(model)
        print(json.dumps({"path": str(path), "text": path.read_text()}))
    except ModelNotFound as error:
        print(json.dumps({"error": str(error)}))
"""

ERRORS = {
    "org/coder": r"org/coder needs a file, as in org/coder:q4_k_m; there: .*q3_k_m.*",
    "org/coder:q2_k": r"org/coder has no q2_k; there: .*coder-q3_k_m.gguf, .*",
    "org/coder:f16": r"org/coder has several f16: one-f16.gguf, two-f16.gguf; name one, .*",
    "org/coder:q5_0": r"org/coder has no torn-q5_0-00002-of-00002.gguf; there: .*",
    "org/coder/none.gguf": r"org/coder has no none.gguf; there: .*",
    "org/empty:q4_0": r"org/empty has no q4_0; no GGUF file is there",
    "org/gated:q4_0": r"org/gated is gated: accept its terms .* HF_TOKEN .*",
    "org/none:q4_0": r"no file org/none and no such repository on the hub, or a private .*",
    "org/broken:q4_0": r"the hub does not list org/broken: .*500.*",
}


class StandIn(BaseHTTPRequestHandler):
    """The listing of a repository and its files, as the hub answers for them."""

    protocol_version = "HTTP/1.1"
    downloads: list[str] = []

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        listing = re.fullmatch(r"/api/models/([^/]+/[^/?]+)", self.path)
        file = re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", self.path)
        repo = listing[1] if listing else file[1] if file else ""
        if repo == "org/broken":
            self.send(500, b"", {})
        elif repo not in REPOS:
            self.send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif listing:
            siblings = [{"rfilename": name} for name in REPOS[repo]]
            self.send(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode())
        elif repo == "org/gated" and self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif file and file[2] in REPOS[repo]:
            body = f"bytes of {file[2]}".encode()
            self.send(200, body, {"ETag": f'"{sha256(body).hexdigest()}"'})
            if self.command == "GET":
                self.downloads.append(file[2])
        else:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.fixture
def hub() -> Iterator[str]:
    StandIn.downloads.clear()
    with serving() as endpoint:
        yield endpoint


def resolve_all(
    endpoint: str, home: Path, *models: str, **environment: str
) -> list[dict[str, str]]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and not name.lower().endswith("_proxy")
    }
    mine = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, *models],
        env=kept | mine | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def resolve(endpoint: str, home: Path, model: str, **environment: str) -> dict[str, str]:
    return resolve_all(endpoint, home, model, **environment)[0]


def test_an_existing_path_is_the_model(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    assert resolve_model(str(tmp_path / "a.gguf")) == tmp_path / "a.gguf"


@pytest.mark.parametrize(
    "model",
    ["missing.gguf", "folder/missing.gguf", "/missing", "a/b:", "a/b:q4 k", "a/../b:q4", "../b:q4",
     "a/b/c/../d.gguf", "a:b", "a/b/c", "https://host/a/b", "-a/b:q4", "a/b:" + "q" * 65],
)  # fmt: skip
def test_what_is_no_name_is_refused_without_asking_the_hub(model: str) -> None:
    with pytest.raises(ModelNotFound, match="no file .* no name of the form org/repo:quant"):
        resolve_model(model)


def test_a_name_brings_its_file(hub: str, tmp_path: Path) -> None:
    files = {
        "org/coder:Q3_K_M": "coder-q3_k_m.gguf",
        "org/coder:q4_k": "coder-q4_k.gguf",
        "org/coder:q6_k": "Q6_K/coder.gguf",
        "org/coder/two-f16.gguf": "two-f16.gguf",
    }
    results = resolve_all(hub, tmp_path, *files)
    for result, file in zip(results, files.values(), strict=True):
        assert result["path"].endswith(f"/{file}")
        assert result["text"] == f"bytes of {file}"
    assert StandIn.downloads == list(files.values())


@pytest.mark.parametrize("model", ["org/coder:q8_0", "org/coder/coder-q8_0-00002-of-00002.gguf"])
def test_all_shards_are_fetched_and_the_first_returned(
    hub: str, tmp_path: Path, model: str
) -> None:
    first, second = "coder-q8_0-00001-of-00002.gguf", "coder-q8_0-00002-of-00002.gguf"
    path = Path(resolve(hub, tmp_path, model)["path"])
    assert path.name == first
    assert path.with_name(second).read_text() == f"bytes of {second}"


def test_an_error_is_one_line_that_helps(hub: str, tmp_path: Path) -> None:
    results = resolve_all(hub, tmp_path, *ERRORS)
    for result, expected in zip(results, ERRORS.values(), strict=True):
        assert re.fullmatch(expected, result["error"])
    assert StandIn.downloads == []


def test_a_token_opens_a_gated_repository(hub: str, tmp_path: Path) -> None:
    result = resolve(hub, tmp_path, "org/gated:q4_0", HF_TOKEN=TOKEN)
    assert result["text"] == "bytes of m-q4_0.gguf"


def test_without_a_network_what_was_fetched_before_is_served(tmp_path: Path) -> None:
    StandIn.downloads.clear()
    with serving() as hub:
        fetched = resolve(hub, tmp_path, "org/coder:q3_k_m")
    assert resolve(hub, tmp_path, "org/coder:q3_k_m") == fetched
    assert resolve(hub, tmp_path, "org/coder:q3_k_m", HF_HUB_OFFLINE="1") == fetched
    error = resolve(hub, tmp_path, "org/coder:q8_0")["error"]
    assert error == (
        "org/coder has no q8_0; fetched before (the hub cannot be reached): coder-q3_k_m.gguf"
    )


def test_without_a_network_and_a_cache_it_says_so(tmp_path: Path) -> None:
    with serving() as hub:
        pass
    error = resolve(hub, tmp_path, "org/coder:q3_k_m")["error"]
    assert re.fullmatch(r"no file .*, the hub cannot be reached \(.*\) and nothing .*", error)
