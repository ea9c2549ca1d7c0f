"""The page's files: all are served, with headers that let nothing else in."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from server.page_routes import read_page

ROOT = Path(__file__).resolve().parents[2]


async def test_the_page_and_all_that_it_names_is_there_without_a_key(start_server: Any) -> None:
    client = await start_server(api_keys=("k",))
    response = await client.get("/")
    assert response.content_type == "text/html"
    named = re.findall(r'(?:href|src)="(page/[^"]+)"', await response.text())
    assert len(named) > 4
    for name in named:
        assert (await client.get(f"/{name}")).status == 200
    scripts = [name for name in read_page() if name.endswith(".js")]
    for name in scripts:
        response = await client.get(f"/page/{name}")
        assert response.content_type == "text/javascript"
        for imported in re.findall(r'from "\./([^"]+)"', await response.text()):
            assert imported in scripts


async def test_the_page_may_ask_this_server_alone(client: Any) -> None:
    for path in ("/", "/page/main.js"):
        headers = (await client.get(path)).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


async def test_a_file_that_is_known_is_not_sent_again(client: Any) -> None:
    first = await client.get("/page/main.js")
    known = {"If-None-Match": first.headers["ETag"]}
    again = await client.get("/page/main.js", headers=known)
    assert (again.status, await again.read()) == (304, b"")
    other = await client.get("/page/main.js", headers={"If-None-Match": '"other"'})
    assert other.status == 200


@pytest.mark.parametrize("name", ["nothing.js", "..%2fapp.py", "%2e%2e/app.py", "main.py"])
async def test_no_other_file_is_served(client: Any, name: str) -> None:
    assert (await client.get(f"/page/{name}")).status == 404


def test_the_files_are_in_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["server"]
    packed = {path.name for pattern in patterns for path in (ROOT / "server").glob(pattern)}
    assert packed == set(read_page())


def test_no_file_makes_markup_of_text_or_names_another_host() -> None:
    for name, file in read_page().items():
        text = file.body.decode()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        hosts = set(re.findall(r"https?://([\w.]+)", text))
        assert hosts <= {"www.w3.org"}, name  # the name of SVG's namespace
