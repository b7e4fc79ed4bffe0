"""oomph: know before you OOM.

`import oomph` costs nothing: every name below is loaded when it is first used.

    >>> import oomph
    >>> oomph.load("llama-3-8b").params
    8030261248
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from oomph.answer import estimate as estimate
    from oomph.answer import load as load
    from oomph.errors import OomphError as OomphError
    from oomph.job import InferJob as InferJob
    from oomph.job import TrainJob as TrainJob
    from oomph.ledger import Ledger as Ledger
    from oomph.model import Model as Model

_HOMES = {
    "estimate": "oomph.answer",
    "load": "oomph.answer",
    "Ledger": "oomph.ledger",
    "Model": "oomph.model",
    "InferJob": "oomph.job",
    "OomphError": "oomph.errors",
    "TrainJob": "oomph.job",
}
__all__ = ["InferJob", "Ledger", "Model", "OomphError", "TrainJob", "__version__", "estimate", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'oomph' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
