"""Shared test ground: where the collected facts lie, and how tests skip without them."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long a machine takes to draw examples says nothing of the code: no test is timed.
settings.register_profile("oomph", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("oomph")

SHARED = Path(os.environ.get("OOMPH_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs the collected facts, with a message, where they are absent."""
    if not SHARED.is_dir():
        skip = pytest.mark.skip(reason=f"the collected facts ({SHARED}) are not here; set OOMPH_SHARED")
        for item in items:
            if "shared" in item.keywords:
                item.add_marker(skip)


def settle() -> None:
    """Take what is there now out of the cycle collector's sight.

    A trace collects before it begins, and looking through all of torch and transformers each time takes nearly as long
    as the trace itself.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _settled(request: pytest.FixtureRequest) -> None:
    """Slow tests trace, and libraries that the tests before them have loaded stay."""
    if "slow" in request.keywords:
        settle()


def shared_configs() -> list[tuple[str, dict]]:
    """Every collected config with its repo id; empty where the facts are absent."""
    index = SHARED / "configs" / "index.jsonl"
    if not index.is_file():
        return []
    rows = [json.loads(line) for line in index.read_text().splitlines()]
    return [(row["repo_id"], json.loads((SHARED / "configs" / row["file"]).read_text())) for row in rows]


def shared_params(repo_id: str) -> dict | None:
    """The parameter truth of one collected config, counted from the real class; None if there is none."""
    path = SHARED / "configs" / "params" / f"{repo_id.replace('/', '__')}.json"
    return json.loads(path.read_text()) if path.is_file() else None
