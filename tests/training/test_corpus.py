"""The corpus: licences confirmed, limits kept, a file that gives back what went in."""

import zipfile
from email.message import Message

import pytest

from training.corpus import CorpusError, Document, choose, read_corpus, read_package, write_corpus
from training.duplicates import Seen
from training.licences import is_permissive, stated_licence
from training.packages import PACKAGES, Package

CODE = 'def double(x):\n    """Twice the number, whatever it is."""\n    return 2 * x\n\n\n' * 5


def metadata(**fields: str) -> Message:
    message = Message()
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    return message


def make_wheel(folder, licence):
    with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy/double.py", CODE)
        wheel.writestr("toy/_vendor/double.py", CODE + "y = 2\n")
        wheel.writestr("toy-1.0.dist-info/METADATA", f"License-Expression: {licence}\n\nToy.\n")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License_Expression": "MIT OR Apache-2.0"}, "MIT OR Apache-2.0"),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, "BSD-3-Clause"),
        ({"License": "Apache 2.0"}, "Apache-2.0"),
        ({"License": "see the file"}, None),
        ({"Classifier": "License :: OSI Approved :: Something Else"}, None),
    ],
)
def test_a_licence_is_read_from_metadata(fields, expected):
    assert stated_licence(metadata(**fields)) == expected


def test_every_part_of_a_licence_must_be_permissive():
    assert is_permissive("MIT") and is_permissive("BSD-3-Clause AND MIT")
    assert is_permissive("GPL-2.0-only OR MIT")
    assert not is_permissive("MIT AND GPL-2.0-only")


def test_the_table_holds_permissive_packages_once():
    assert all(is_permissive(package.licence) for package in PACKAGES)
    assert len({package.name for package in PACKAGES}) == len(PACKAGES)


def test_a_package_gives_its_own_files(tmp_path):
    make_wheel(tmp_path, "MIT")
    source, documents = read_package((Package("toy", "1.0", "MIT"), tmp_path))
    assert [document.path for document in documents] == ["toy/toy/double.py"]
    assert source.archive == "toy-1.0-py3-none-any.whl" and len(source.sha256) == 64


def test_a_package_under_another_licence_is_refused(tmp_path):
    make_wheel(tmp_path, "GPL-3.0-only")
    with pytest.raises(CorpusError, match="toy: metadata states 'GPL-3.0-only', not 'MIT'"):
        read_package((Package("toy", "1.0", "MIT"), tmp_path))


def test_a_package_that_pip_does_not_bring_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *args, **kwargs: None)
    with pytest.raises(CorpusError, match="pip brought no toy-1.0"):
        read_package((Package("toy", "1.0", "MIT"), tmp_path))


def test_repeated_documents_are_taken_once():
    documents = [Document("a/x.py", CODE), Document("a/y.py", CODE), Document("a/z.py", "z = 1\n")]
    chosen = choose(documents, Seen())
    assert len(chosen) == 2
    assert {document.text for document in chosen} == {CODE, "z = 1\n"}


def test_a_corpus_comes_back_from_its_file(tmp_path):
    documents = [Document("a/x.py", CODE), Document("a/ü.md", "Größe\n")]
    write_corpus(tmp_path / "corpus.xz", documents)
    assert read_corpus(tmp_path / "corpus.xz") == documents


def test_a_hundredth_is_held_out_by_its_text():
    documents = [Document(f"{i}", f"text {i}") for i in range(5_000)]
    share = sum(document.held_out for document in documents) / len(documents)
    assert 0.005 < share < 0.015
    assert Document("elsewhere", "text 7").held_out == documents[7].held_out
