"""Profiles: only where the operator let them, one at a time."""

from pathlib import Path
from typing import Any


async def test_without_a_folder_there_are_no_profiles(client: Any) -> None:
    for path in ("/start_profile", "/stop_profile"):
        response = await client.post(path)
        assert response.status == 404
        assert "--profile-dir" in (await response.json())["error"]["message"]


async def test_one_profile_at_a_time(start_server: Any, tmp_path: Path) -> None:
    client = await start_server(profile_dir=tmp_path)
    for path, status in [("/stop_profile", 409), ("/start_profile", 200), ("/start_profile", 409),
                         ("/stop_profile", 200), ("/stop_profile", 409)]:  # fmt: skip
        response = await client.post(path)
        body = await response.json()
        assert response.status == status, (path, body)
        if status == 200:
            assert body["profile_dir"] == str(tmp_path)
        else:
            assert body["error"]["code"] == "profile_conflict"


async def test_an_engine_that_dies_answers_nobody(start_server: Any, tmp_path: Path) -> None:
    client = await start_server("--die-on-profile", profile_dir=tmp_path)
    response = await client.post("/start_profile")
    assert response.status == 500
    response = await client.post("/stop_profile")
    assert response.status == 503
