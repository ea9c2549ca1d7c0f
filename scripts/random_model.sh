#!/bin/sh
# Prints the path of a tiny model with random weights, written on first use, and says what it is.
set -eu
cd "$(dirname "$0")/.."
model=${XDG_CACHE_HOME:-$HOME/.cache}/ggjax/random-tiny.gguf

if [ ! -f "$model" ] || [ -n "$(find benchmarks -name '*.py' -newer "$model")" ]; then
    .venv/bin/python -m benchmarks.make_gguf "$model.part" >/dev/null
    mv "$model.part" "$model"
fi
cat >&2 <<MESSAGE
No model was named: this is a tiny one with random weights. It speaks nonsense, and shows that all else
works. For another one: make serve MODEL=path/to/file.gguf, or MODEL=org/repo:q4_k_m
MESSAGE
echo "$model"
