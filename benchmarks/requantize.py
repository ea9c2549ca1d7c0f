"""Writes a GGUF file once more with its matrices in another type, everything else as it was."""

import argparse
from os import PathLike
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

from benchmarks.make_gguf import QUANTISED

FILE_TYPE = "general.file_type"
# what the writer adds by itself
WRITTEN = frozenset({"general.architecture"})


def file_type(kind: Type) -> gguf.LlamaFileType:
    """The number of a file whose matrices are mostly of a type."""
    names = {found.name.split("_", 1)[-1]: found for found in gguf.LlamaFileType}
    return names[kind.name]


def requantize(source: str | PathLike[str], target: str | PathLike[str], kind: Type) -> Path:
    """Writes `target` and returns its path.

    Matrices become `kind`, rounded from the values that the source holds; vectors, which are
    norms and biases, and the metadata but the file type stay as they are.

    Raises:
        ValueError: `kind` is not one that can be written, or a row is no multiple of its block.
    """
    if kind not in QUANTISED:
        known = ", ".join(found.name for found in QUANTISED)
        raise ValueError(f"type must be one of {known}, got {kind.name}")
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for key, field in reader.fields.items():
        if key in WRITTEN or key.startswith("GGUF."):
            continue
        if key == FILE_TYPE:
            writer.add_file_type(file_type(kind))
            continue
        item = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), field.types[0], item)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        block, _ = gguf.GGML_QUANT_SIZES[kind]
        if values.shape[-1] % block:
            raise ValueError(
                f"{tensor.name} has rows of {values.shape[-1]}, no multiple of {block}"
            )
        writer.add_tensor(tensor.name, quantize(values.astype(np.float32), kind), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return Path(target)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.requantize", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--type", choices=[kind.name for kind in QUANTISED], required=True)
    args = parser.parse_args()
    path = requantize(args.source, args.target, Type[args.type])
    print(f"{path}: {path.stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
