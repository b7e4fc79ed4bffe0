"""Which of its two model runners vLLM takes: the second came model by model, what each allocates differs.

Source: vllm/config/vllm.py, use_v2_model_runner, of vLLM 0.20.0, 0.22.0, 0.23.0, 0.24.0, 0.25.1, 0.26.0, 0.27.1, 0.28.0
and 0.29.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oomph.blocks.cached import StateCache
from oomph.caches import layer_caches
from oomph.engines.memo import remembered

if TYPE_CHECKING:
    from oomph.engines.vllm.activations import Version
    from oomph.model import Model

ALL: Version = (0, 29)
DENSE: Version = (0, 25)  # every model but hybrids and mixtures, of which a few
QUANTISED_TOO: Version = (0, 24)
MIXTURES = frozenset({"deepseek_v2", "granitemoe", "qwen2_moe"})
FIRST = (
    ((0, 24), frozenset({"llama", "mistral", "qwen3"}) | MIXTURES),
    ((0, 23), frozenset({"llama", "mistral", "qwen3"})),
    ((0, 22), frozenset({"qwen3"})),
)


def second_runner(model: Model, version: Version, quantised: bool) -> bool:
    """Tell whether the second runner serves a model by default.

    >>> from oomph import load
    >>> llama = load("llama-3-8b")
    >>> [second_runner(llama, version, False) for version in ((0, 22), (0, 23), (0, 25), (0, 29))]
    [False, True, True, True]
    >>> second_runner(llama, (0, 23), True), second_runner(load("mixtral-8x7b-v0.1"), (0, 28), False)
    (False, False)
    """
    if version >= ALL:
        return True
    if version >= DENSE:
        hybrid, mixture = remembered(model, "kinds", lambda: _kinds(model))
        return not hybrid and (not mixture or model.decoder_type in MIXTURES)
    named = next((types for since, types in FIRST if version >= since), frozenset())
    return model.decoder_type in named and (not quantised or version >= QUANTISED_TOO)


def _kinds(model: Model) -> tuple[bool, bool]:
    """Return whether some layer keeps a state, and whether some is a mixture of experts."""
    states = any(isinstance(kept, StateCache) for each in layer_caches(model) for kept in each.cached)
    return states, any(weight.role == "expert" for weight in model.weights)
