"""The model that drafts tokens for another one: named, since a job says its sizes by its name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.sources import catalogue

if TYPE_CHECKING:
    from oomph.model import Model

KEPT = 8  # models in memory


def assistant_config(name: str) -> Mapping[str, Any]:
    """Return the config of a model that oomph knows by name.

    Raises UsageError for another one: what a job takes must not hang on a server.
    """
    found = catalogue.find(name[:200])
    if found is None or found.config is None:
        hint = catalogue.suggest(name[:200]) or "Name one that `oomph models` lists."
        raise UsageError(f"There is no assistant {name[:80]!r} that oomph knows by name.", hint)
    return found.config


@lru_cache(KEPT)
def assistant_model(name: str) -> Model:
    """Return the model of a name.

    >>> assistant_model("smollm2-135m-instruct").num_layers
    30
    """
    return model_from_config(dict(assistant_config(name)))
