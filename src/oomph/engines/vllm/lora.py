"""The slots that --enable-lora makes beside every map of the decoder: A and B of the largest rank for each adapter.

A reads a device's part of the inputs, B writes its part of the outputs; maps that lie side by side have a pair each.
Source: vllm/lora/layers/base_linear.py, column_parallel_linear.py, vocal_parallel_embedding.py of vLLM 0.22.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from oomph.errors import UnsupportedError
from oomph.tensor import Weight

KINDS = frozenset({"attention", "mlp", "linear_attention"})
WITH_WORDS = frozenset({"llama", "mistral", "mixtral"})  # whose classes name embedding_modules


@dataclass(frozen=True)
class Slots:
    """`count` adapters at once, of at most `rank`."""

    count: int
    rank: int


def slots(weight: Weight, asked: Slots, model_type: str) -> Iterator[tuple[str, int]]:
    """Yield the name and the elements of the tensors that adapters may fill beside a weight, as a device holds it.

    >>> from oomph.tensor import Tensor
    >>> row = Weight("model.layers.*.mlp.down_proj.weight", Tensor((4096, 6144), "linear"), "mlp", ((0,),))
    >>> [size for _, size in slots(row, Slots(1, 16), "qwen3")]
    [98304, 65536]
    """
    if weight.role == "expert":
        raise UnsupportedError("vLLM's slots for adapters of experts are not modelled.", "Leave --enable-lora out.")
    is_map = weight.role == "linear" and weight.kind in KINDS and bool(weight.places)
    is_word = weight.kind in ("embedding", "lm_head") and model_type in WITH_WORDS
    if is_map or is_word:
        out, into = weight.shape
        yield f"{weight.name}.lora_a", asked.count * asked.rank * into
        yield f"{weight.name}.lora_b", asked.count * asked.rank * out
