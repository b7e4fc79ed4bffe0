"""What was worked out of a model is kept as long as the model is: asking again with another context costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from oomph.model import Model

T = TypeVar("T")
MOST = 256  # things kept of one model

_kept: WeakKeyDictionary[Model, dict[Hashable, Any]] = WeakKeyDictionary()


def remembered(model: Model, key: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` made of a model under this key, made when it is first asked for."""
    known = _kept.setdefault(model, {})
    if key not in known:
        if len(known) >= MOST:
            known.clear()
        known[key] = make()
    found: T = known[key]
    return found
