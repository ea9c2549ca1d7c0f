# The two commands that do everything, `make serve` and `make test`, and the checks of the code.

# a path, or org/repo:quant; ARGS passes through to ggjax serve or to pytest
MODEL ?=
ARGS ?=

.PHONY: serve test check setup setup-dev

serve: setup
	@model='$(MODEL)'; [ -n "$$model" ] || model=$$(scripts/random_model.sh) || exit 1; \
	exec .venv/bin/ggjax serve "$$model" $(ARGS)

test: setup-dev
	.venv/bin/python -m pytest $(ARGS)

check: setup-dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

setup:
	@scripts/setup.sh

setup-dev:
	@scripts/setup.sh dev
