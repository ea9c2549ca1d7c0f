"""Keys: every route but the listed ones needs one, whatever the request looks like."""

import asyncio
from typing import Any

import pytest

from server.access import ACCESS, is_loopback, make_access
from server.api_keys import ApiKeys
from server.app import OPEN_HANDLERS, ROUTES

KEY = "sk-right"
OPEN = {"/health", "/health/ready", "/health/live", "/ping"}
PAGE = {"/", "/page/{name}", "/docs"}  # open too; the pages ask for the key themselves
PATHS = [
    (method, path.replace("{id:.+}", "tiny")) for method, path, _ in ROUTES if path not in PAGE
]
WRONG_HEADERS: list[dict[str, str]] = [
    {},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer sk-wrong"},
    {"Authorization": "Bearer sk-righ"},
    {"Authorization": "Bearer sk-rightt"},
    {"Authorization": "Basic sk-right"},
    {"Authorization": KEY},
    {"Authorization": "Bearer sk-right, Bearer x"},
    {"Authorization": "Bearer é\udcff"},
    {"Authorization": "Bearer " + "k" * 8000},
    {"X-Api-Key": KEY},
    {"Host": "evil.example", "X-Forwarded-Host": "localhost"},
]


@pytest.fixture(scope="module")
async def guarded(start_for_all: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("profile")
    return await start_for_all(api_keys=("other", KEY), profile_dir=folder)


def test_the_list_of_open_routes_is_the_whole_list() -> None:
    assert {path for _, path, handler in ROUTES if handler in OPEN_HANDLERS} == OPEN | PAGE


async def test_every_route_of_the_router_is_in_the_table(guarded: Any) -> None:
    found = {route.resource.canonical for route in guarded.app.router.routes()}
    assert found == {path.replace("{id:.+}", "{id}") for _, path, _ in ROUTES}


async def test_without_a_right_key_every_route_is_a_401(guarded: Any) -> None:
    for method, path in PATHS:
        for headers in WRONG_HEADERS:
            if path in OPEN:
                continue
            response = await raw(guarded, method, path, headers)
            assert response.startswith(b"HTTP/1.1 401"), (method, path, headers, response)
            assert b"WWW-Authenticate: Bearer" in response
            assert b'"code":"invalid_api_key"' in response


async def test_tricks_with_paths_and_methods_open_nothing(guarded: Any) -> None:
    for method, path in PATHS:
        for trick in (f"/{path}", f"{path}/", f"/v1/%2e%2e{path}", f"/health/..{path}",
                      f"{path}%00", f"{path}?api_key={KEY}", path.upper(), f"/health#{path}",
                      f"http://localhost{path}"):  # fmt: skip
            for verb in (method, "OPTIONS", "HEAD", "PUT", "DELETE", "TRACE"):
                response = await raw(guarded, verb, trick, {})
                status = int(response.split(b" ", 2)[1])
                if trick.startswith("/health") and verb in ("GET", "HEAD"):
                    continue
                if path in OPEN and verb == method:
                    continue
                assert status in (400, 401, 404, 405), (verb, trick, response)


async def test_each_key_opens_every_route(guarded: Any) -> None:
    for key in ("other", KEY):
        for scheme in ("Bearer", "bearer"):
            for method, path in PATHS:
                headers = {"Authorization": f"{scheme} {key}"}
                response = await guarded.request(method, path, headers=headers)
                assert response.status in (200, 415), (method, path)


async def test_health_needs_no_key(guarded: Any) -> None:
    for path in OPEN:
        response = await guarded.get(path)
        assert response.status == 200
        assert await response.read() == b""


async def test_the_cache_is_parted_by_key(start_server: Any, tmp_path: Any) -> None:
    log = tmp_path / "events"
    client = await start_server("--events", log, api_keys=("a", "b"))
    for key in ("a", "b"):
        headers = {"Authorization": f"Bearer {key}"}
        body = {"prompt": "x", "max_tokens": 1, "cache_salt": "salt"}
        assert (await client.post("/v1/completions", json=body, headers=headers)).status == 200
    first, second = [line for line in log.read_text().splitlines() if "Submit" in line]
    assert first.endswith(":salt") and second.endswith(":salt")
    assert first.removeprefix("Submit 1 ") != second.removeprefix("Submit 2 ")


async def test_one_of_several_keys_cannot_take_all_places(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.access.MAX_REQUESTS_PER_KEY", 1)
    client = await start_server("--delay", 0.05, api_keys=("a", "b"))

    async def ask(key: str) -> Any:
        headers = {"Authorization": f"Bearer {key}"}
        body = {"prompt": "XYZ", "max_tokens": 5}
        return await client.post("/v1/completions", json=body, headers=headers)

    responses = await asyncio.gather(ask("a"), ask("a"), ask("b"))
    assert sorted(response.status for response in responses) == [200, 200, 429]
    (refused,) = [response for response in responses if response.status == 429]
    assert (await refused.json())["error"]["code"] == "too_many_requests"
    assert refused.headers["Retry-After"]
    assert (await ask("a")).status == 200


async def test_a_foreign_host_is_refused_where_there_is_no_key(client: Any) -> None:
    for host, status in [("localhost:99", 200), ("127.0.0.1", 200), ("[::1]:8000", 200),
                         ("LOCALHOST", 200), ("evil.example", 403), ("127.0.0.1.evil", 403),
                         ("", 403), ("a b", 403)]:  # fmt: skip
        response = await raw(client, "GET", "/v1/models", {"Host": host})
        assert int(response.split(b" ", 2)[1]) in (status, 400), (host, response)
        if status == 200:
            assert response.startswith(b"HTTP/1.1 200")


async def test_no_cors_headers(client: Any) -> None:
    response = await client.get("/v1/models", headers={"Origin": "http://evil.example"})
    assert not [name for name in response.headers if name.startswith("Access-Control")]


def test_any_host_is_right_beyond_this_machine_or_with_keys() -> None:
    assert make_access(ApiKeys(), "0.0.0.0", frozenset()).own_hosts is None
    assert make_access(ApiKeys(["k"]), "127.0.0.1", frozenset()).own_hosts is None
    assert is_loopback("localhost") and is_loopback("::1") and is_loopback("127.0.0.9")
    assert not is_loopback("0.0.0.0") and not is_loopback("example.org")


async def test_keys_are_not_kept(guarded: Any) -> None:
    assert KEY not in repr(vars(guarded.app[ACCESS].keys))


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1_Z", True), ("a" * 64, True), ("a" * 65, False), ("x y", False), ("é", False)],
)
async def test_request_ids_are_echoed_when_they_are_clean(
    client: Any, given: str, kept: bool
) -> None:
    for path in ("/health", "/v1/nothing"):
        response = await client.get(path, headers={"X-Request-Id": given})
        assert (response.headers["X-Request-Id"] == given) is kept


async def raw(client: Any, method: str, path: str, headers: dict[str, str]) -> bytes:
    """A request exactly as written, and the whole response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    lines = [f"{method} {path} HTTP/1.1", "Connection: close", "Content-Length: 0"]
    lines += [f"{k}: {v}" for k, v in ({"Host": "localhost"} | headers).items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"))
    async with asyncio.timeout(10):
        response = await reader.read()
    writer.close()
    return response
