"""Prints the requirements of pyproject.toml and one of its extras, or none of them for `cpu`."""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    pyproject = Path(__file__).resolve().parents[1] / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = {"cpu": [], **project["optional-dependencies"]}
    extra = sys.argv[1]
    if extra not in extras:
        sys.exit(f"must be one of {', '.join(extras)}, got {extra!r}")
    print(*project["dependencies"], *extras[extra], sep="\n")


if __name__ == "__main__":
    main()
