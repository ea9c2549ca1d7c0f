"""Every way to the device carries all bytes of a file."""

import sys

import jax
import numpy as np

from benchmarks import transfer
from benchmarks.make_gguf import write_gguf


def test_pieces_are_the_same_bytes():
    tensors = [np.arange(1000, dtype=np.int32).reshape(10, 100), np.zeros(3, np.uint8)]
    parts = list(transfer.pieces(tensors, 1024))
    assert max(part.size for part in parts) <= 1024
    assert b"".join(part.tobytes() for part in parts) == b"".join(x.tobytes() for x in tensors)


def test_all_parts_are_put_and_few_wait(monkeypatch):
    seen = []

    def put(part):
        seen.append(int(part[0]))
        return jax.device_put(part)

    transfer.put_all((np.full(4, i, np.uint8) for i in range(50)), put, 2)
    assert sorted(seen) == list(range(50))


def test_each_way_is_a_line(tmp_path, monkeypatch, capsys):
    path = write_gguf(tmp_path / "tiny.gguf", size="tiny")
    monkeypatch.setattr(sys, "argv", ["transfer", str(path), "--threads", "1", "2"])
    transfer.main()
    first, memory, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{path.stat().st_size / 1e9:.2f} GB to cpu")
    assert float(memory.removesuffix(" s").split()[-1]) >= 0
    names = [line[:10].strip() for line in lines]
    assert names == ["loaded", "pages", "pieces 1", "pieces 2", "whole 1", "whole 2"]
    for line in lines:
        numbers = line[10:].replace("GB/s", "").replace("s", "").split()
        assert len(numbers) == 4 and all(float(rate) > 0 for rate in numbers[1::2])
