"""Finds the file of a model: a path, or a name on the Hugging Face hub, which is fetched first."""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import CachedFileInfo
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

# that of the HTTP library which the installed client uses
from huggingface_hub.errors import HTTPError as NetworkError  # type: ignore[attr-defined]

from models import demo
from models.gguf_file import SHARD_NAME

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
REFERENCE = re.compile(
    rf"(?P<repo>{NAME}/{NAME}(?<!\.gguf))"
    rf"(?: : (?P<quant>[A-Za-z0-9_-]{{1,64}}) | / (?P<file>(?:{NAME}/){{0,8}}{NAME}\.gguf) )?",
    re.VERBOSE,
)
MAX_LISTED = 20


class ModelNotFound(ValueError):
    """There is no such model, or it cannot be had; one line for the operator."""


@dataclass(frozen=True)
class Listing:
    """The GGUF files of a repository, at one commit; `cached`: only those that are here already."""

    repo: str
    commit: str | None
    files: list[str]
    cached: bool


def resolve_model(model: str, *, token: str | None = None) -> Path:
    """The path of a model's file, or of its first shard.

    Args:
        model: a path, `org/repo:quant`, `org/repo/file.gguf`, or `demo`, which ships with ggjax.
        token: for the hub; None takes HF_TOKEN or what `hf auth login` stored.

    Raises:
        ModelNotFound: saying what is wrong and, where it helps, what there is.
    """
    if model == demo.NAME:
        return demo.PATH
    path = Path(model).expanduser()
    if path.exists():
        return path
    reference = REFERENCE.fullmatch(model)
    if reference is None:
        raise ModelNotFound(f"no file {model!r}, and no name of the form org/repo:quant")
    repo = reference["repo"]
    listing = list_gguf(repo, token)
    if reference["file"]:
        shards = shards_of(listing, reference["file"])
    elif reference["quant"]:
        shards = shards_of(listing, pick(listing, reference["quant"]))
    else:
        raise ModelNotFound(f"{model} needs a file, as in {repo}:q4_k_m; {there_is(listing)}")
    return [download(listing, shard, token) for shard in shards][0]


def list_gguf(repo: str, token: str | None) -> Listing:
    """What the hub has; without a network, what an earlier fetch has left here."""
    try:
        info = huggingface_hub.model_info(repo, token=token)
    except GatedRepoError as error:
        raise ModelNotFound(gated(repo)) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"no file {repo} and no such repository on the hub, or a private one that "
            "HF_TOKEN does not open"
        ) from error
    except HfHubHTTPError as error:
        raise ModelNotFound(f"the hub does not list {repo}: {one_line(error)}") from error
    except (NetworkError, OfflineModeIsEnabled, OSError) as error:
        cached = cached_gguf(repo)
        if cached is None:
            raise ModelNotFound(
                f"no file {repo}, the hub cannot be reached ({one_line(error)}) and nothing of "
                "that repository was fetched before"
            ) from error
        return cached
    names = [sibling.rfilename for sibling in info.siblings or ()]
    return Listing(repo, info.sha, [name for name in names if is_model(name)], cached=False)


def cached_gguf(repo: str) -> Listing | None:
    """The newest commit of the repository in the hub's cache that has a GGUF file."""
    try:
        repos = huggingface_hub.scan_cache_dir().repos
    except huggingface_hub.CacheNotFound:
        return None
    for cached in repos:
        if cached.repo_id != repo or cached.repo_type != "model":
            continue
        newest_first = sorted(cached.revisions, key=lambda one: one.last_modified, reverse=True)
        for revision in newest_first:
            names = [relative_name(file, revision.snapshot_path) for file in revision.files]
            if models := [name for name in names if is_model(name)]:
                return Listing(repo, revision.commit_hash, models, cached=True)
    return None


def relative_name(file: CachedFileInfo, snapshot: Path) -> str:
    return file.file_path.relative_to(snapshot).as_posix()


def is_model(name: str) -> bool:
    # a projector of images goes beside a model and is none
    return name.endswith(".gguf") and not name.rpartition("/")[2].startswith("mmproj")


def pick(listing: Listing, quant: str) -> str:
    """The file, or one shard of the files, whose name carries the quantisation."""
    # Q4_K is not Q4_K_M, so no underscore may follow
    carries = re.compile(rf"(?:^|[-._/]){re.escape(quant)}(?=[-./])", re.IGNORECASE)
    models: defaultdict[str, list[str]] = defaultdict(list)
    for name in listing.files:
        if carries.search(name):
            shard = SHARD_NAME.fullmatch(name)
            models[shard["stem"] if shard else name].append(name)
    if not models:
        raise ModelNotFound(f"{listing.repo} has no {quant}; {there_is(listing)}")
    if len(models) > 1:
        found = ", ".join(sorted(models))
        raise ModelNotFound(
            f"{listing.repo} has several {quant}: {found}; name one, as in {listing.repo}/FILE"
        )
    return min(next(iter(models.values())))


def shards_of(listing: Listing, name: str) -> list[str]:
    """All files of the model that `name` belongs to, in order."""
    shard = SHARD_NAME.fullmatch(name)
    count = int(shard["count"]) if shard else 1
    names = [name]
    if shard:
        names = [f"{shard['stem']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1)]
    missing = [one for one in names if one not in listing.files]
    if missing:
        raise ModelNotFound(f"{listing.repo} has no {missing[0]}; {there_is(listing)}")
    return names


def there_is(listing: Listing) -> str:
    where = "fetched before (the hub cannot be reached)" if listing.cached else "there"
    if not listing.files:
        return f"no GGUF file is {where}"
    shown = ", ".join(sorted(listing.files)[:MAX_LISTED])
    more = len(listing.files) - MAX_LISTED
    return f"{where}: {shown}" + (f" and {more} more" if more > 0 else "")


def download(listing: Listing, name: str, token: str | None) -> Path:
    """The file in the hub's cache; an interrupted download goes on where it ended."""
    try:
        path = huggingface_hub.hf_hub_download(
            listing.repo,
            name,
            revision=listing.commit,
            token=token,
            local_files_only=listing.cached,
        )
    except GatedRepoError as error:
        raise ModelNotFound(gated(listing.repo)) from error
    except (NetworkError, EntryNotFoundError, OSError) as error:
        raise ModelNotFound(f"{name} cannot be fetched: {one_line(error)}") from error
    return Path(path)


def gated(repo: str) -> str:
    return f"{repo} is gated: accept its terms on the hub, then set HF_TOKEN to your token"


def one_line(error: BaseException) -> str:
    lines = str(error).split("\n")
    return next((line.strip() for line in lines if line.strip()), type(error).__name__)[:300]
