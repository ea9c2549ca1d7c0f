"""Builds the corpus: permissively licensed Python and documentation, and where it is from."""

import argparse
import hashlib
import json
import lzma
import multiprocessing
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email import message_from_bytes
from fnmatch import fnmatch
from pathlib import Path

from training.duplicates import Seen
from training.filters import clean, is_candidate, is_test
from training.licences import is_permissive, stated_licence
from training.packages import PACKAGES, Package

MANIFEST = Path(__file__).with_name("manifest.json")
HELD_OUT = 100  # one document of so many
MAX_PACKAGE_BYTES = 4_000_000  # or the largest packages would be most of the corpus
MAX_TEST_SHARE = 0.2
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 28, "lc": 4, "lp": 0, "pb": 0}]
RECORD, FIELD = "\x1e", "\x1f"  # `clean` lets no control character through


class CorpusError(Exception):
    """A package is not what the table says, or may not be used."""


@dataclass(frozen=True)
class Document:
    """A file of a package."""

    path: str  # begins with the package's name
    text: str

    @property
    def held_out(self) -> bool:
        """Whether the document is kept from training. Follows from the text, not from the order."""
        return int(hashlib.sha256(self.text.encode()).hexdigest(), 16) % HELD_OUT == 0


@dataclass(frozen=True)
class Source:
    """An entry of the manifest: what was taken, and from where."""

    name: str
    version: str
    licence: str
    archive: str
    sha256: str
    files: int
    bytes: int


def read_corpus(path: Path) -> list[Document]:
    """The documents of a corpus file."""
    records = lzma.decompress(path.read_bytes()).decode().split(RECORD)
    return [Document(*record.split(FIELD)) for record in records]


def write_corpus(path: Path, documents: list[Document]) -> None:
    """Writes a corpus file; neighbours should be alike, for that is what xz feeds on."""
    text = RECORD.join(document.path + FIELD + document.text for document in documents)
    path.write_bytes(lzma.compress(text.encode(), format=lzma.FORMAT_XZ, filters=XZ))


def fetch(package: Package, folder: Path) -> Path:
    """The archive of a package: the one in the folder, else downloaded with pip."""
    normalised = package.name.lower().replace("-", "_")
    ending = "-*.whl" if package.kind == "wheel" else ".tar.gz"
    # names differ in case and in dashes between archives
    pattern = f"{normalised}-{package.version}{ending}"

    def find() -> Path | None:
        names = (path.name.lower() for path in folder.iterdir())
        paths = dict(zip(names, folder.iterdir(), strict=True))
        return next((paths[name] for name in sorted(paths) if fnmatch(name, pattern)), None)

    found = find()
    if found is None:
        which = "--only-binary" if package.kind == "wheel" else "--no-binary"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", which, ":all:"]
        wanted = f"{package.name}=={package.version}"
        subprocess.run([*command, "--dest", str(folder), wanted], check=True)
        found = find()
    if found is None:
        raise CorpusError(f"pip brought no {pattern}")
    return found


def archived_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of every candidate in a wheel or a source archive, and of its metadata."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(wheel.namelist()):
                if is_candidate(name) or name.endswith(".dist-info/METADATA"):
                    yield name, wheel.read(name)
        return
    with tarfile.open(archive) as source:
        for member in sorted(source.getmembers(), key=lambda member: member.name):
            _, _, name = member.name.partition("/")
            if member.isfile() and (is_candidate(name) or name == "PKG-INFO"):
                file = source.extractfile(member)
                assert file is not None
                yield name, file.read()


def read_package(job: tuple[Package, Path]) -> tuple[Source, list[Document]]:
    """The documents of a package, once its metadata has confirmed the licence.

    Raises:
        CorpusError: the licence is another than the table says, or not permissive.
    """
    package, folder = job
    archive = fetch(package, folder)
    texts: dict[str, str] = {}
    licence = None
    for name, raw in archived_files(archive):
        if name.endswith(("METADATA", "PKG-INFO")):
            metadata = message_from_bytes(raw)
            licence = stated_licence(metadata)
            # the long description is the README
            name, raw = "README.md", str(metadata.get_payload()).encode()
        text = clean(name, raw)
        if text is not None:
            texts[name] = text
    if licence != package.licence or not is_permissive(package.licence):
        raise CorpusError(f"{package.name}: metadata states {licence!r}, not {package.licence!r}")
    documents = [Document(f"{package.name}/{name}", text) for name, text in texts.items()]
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    return Source(package.name, package.version, licence, archive.name, sha256, 0, 0), documents


def read_standard_library() -> tuple[Source, list[Document]]:
    """The standard library of the Python that runs this, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    documents, whole = [], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if "site-packages" in name or is_test(name) or not is_candidate(name):
            continue
        raw = path.read_bytes()
        whole.update(raw)
        text = clean(name, raw)
        if text is not None:
            documents.append(Document(f"python/{name}", text))
    version = sys.version.split()[0]
    return Source("python", version, "PSF-2.0", "Lib", whole.hexdigest(), 0, 0), documents


def choose(
    documents: list[Document], seen: Seen, max_bytes: int = MAX_PACKAGE_BYTES
) -> list[Document]:
    """New documents up to the limits of a package; which, is left to their hashes."""
    order = sorted(documents, key=lambda document: hashlib.sha256(document.text.encode()).digest())
    chosen, num_bytes, test_bytes = [], 0, 0
    for document in order:
        size = len(document.text.encode())
        test = is_test(document.path)
        if num_bytes + size > max_bytes:
            break
        if test and test_bytes + size > MAX_TEST_SHARE * max_bytes:
            continue
        if seen.is_new(document.text):
            chosen.append(document)
            num_bytes += size
            test_bytes += size * test
    return sorted(chosen, key=lambda document: document.path)


def build(folder: Path, packages: tuple[Package, ...]) -> tuple[list[Source], list[Document]]:
    """The manifest's entries and the documents of all packages and the standard library."""
    folder.mkdir(parents=True, exist_ok=True)
    seen = Seen()
    sources, documents = [], []
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        jobs = [(package, folder) for package in packages]
        found = [read_standard_library(), *pool.imap(read_package, jobs)]
    for source, texts in found:
        # the standard library is the Python that everybody has read: all of it
        limit = sys.maxsize if source.archive == "Lib" else MAX_PACKAGE_BYTES
        chosen = choose(texts, seen, limit)
        size = sum(len(document.text.encode()) for document in chosen)
        sources.append(Source(**asdict(source) | {"files": len(chosen), "bytes": size}))
        documents += chosen
        print(f"{source.name:28} {len(chosen):6,} of {len(texts):6,} files {size / 1e6:8.2f} MB")
    return sources, documents


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.corpus", description=__doc__)
    parser.add_argument("out", type=Path, help="the corpus file, .xz")
    parser.add_argument("--archives", type=Path, required=True, help="folder for downloads")
    args = parser.parse_args()
    sources, documents = build(args.archives, PACKAGES)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_corpus(args.out, documents)
    num_bytes = sum(source.bytes for source in sources)
    summary = {
        "files": len(documents),
        "bytes": num_bytes,
        "held_out_files": sum(document.held_out for document in documents),
        "sources": [asdict(source) for source in sources],
    }
    MANIFEST.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{num_bytes / 1e6:.1f} MB of text, {args.out.stat().st_size / 1e6:.1f} MB packed")


if __name__ == "__main__":
    main()
