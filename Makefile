.PHONY: setup test lint bench docs ci

setup:  ## an editable install with everything the tests need
	pip install -e ".[test]"

test:  ## the fast tests; `pytest -m slow` for the others
	pytest -n auto

lint:
	ruff format --check .
	ruff check .
	mypy

bench:
	python benchmarks/cold_start.py

docs:  ## regenerate what is generated: schema, catalogue, devices, tables
	for script in scripts/make_*.py; do python $$script || exit 1; done

ci:
	.ci/run
