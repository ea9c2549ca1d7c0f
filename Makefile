# The two commands that do everything, `make serve` and `make test`, and the checks of the code.

# a path, or org/repo:quant, or nothing for the demonstration model; ARGS passes through to ggjax serve or to pytest
MODEL ?=
ARGS ?=

.PHONY: serve test check setup setup-dev

serve: setup
	.venv/bin/ggjax serve $(MODEL) $(ARGS)

test: setup-dev
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup-dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

setup:
	@scripts/setup.sh

setup-dev:
	@scripts/setup.sh dev
