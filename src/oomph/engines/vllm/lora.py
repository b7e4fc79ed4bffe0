"""The slots that --enable-lora makes beside every map of the decoder: A and B of the largest rank for each adapter.

A reads a device's part of the inputs, B writes its part of the outputs; maps that lie side by side have a pair each.
Some classes take adapters of words too: their slots hold the whole vocabulary on every device, and before 0.12 rows for
words that an adapter brings, beside them and in the tables themselves. Source: vllm/lora/layers.py, lora/models.py and
model_executor/models/ of vLLM 0.8.5, 0.10.2, 0.12.0 and 0.15.0; lora/layers/ and lora/model_manager.py of 0.19.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oomph.errors import UnsupportedError
from oomph.tensor import Weight

if TYPE_CHECKING:
    from oomph.engines.vllm.job import Version, VllmJob

KINDS = frozenset({"attention", "mlp", "linear_attention"})
# Whose classes name embedding_modules in all versions read; Mistral's was Llama's before it had its own, in 0.15;
# Qwen3's names them in 0.19.0 and not in 0.15.0, and its tied head is the embedding once more.
_WITH_WORDS = """llama mixtral phi3 phimoe granite granitemoe granitemoeshared nemotron exaone cohere cohere2 minicpm
    solar jamba bamba"""
WITH_WORDS = frozenset(_WITH_WORDS.split())
MISTRALS, WITHOUT_AGAIN = frozenset({"mistral"}), (0, 15, 0)
QWENS, LATER = frozenset({"qwen3", "qwen3_moe"}), (0, 19, 0)
OWN_WORDS: Version = (0, 12, 0)  # adapters bring no words of their own from here on
BROUGHT = 256  # lora_extra_vocab_size: words that an adapter may bring
HEAD_PADDING = 256  # lora_vocab_padding_size
COUNTED: Version = (0, 8, 0)  # from here on slots are made before the line of what loading took: not yet in 0.7.3


@dataclass(frozen=True)
class Slots:
    """`count` adapters at once, of at most `rank`; of `words` too, each with `brought` of its own; `aliased` heads."""

    count: int
    rank: int
    words: bool = False
    brought: int = 0
    aliased: bool = False


def asked_slots(job: VllmJob, model_type: str) -> Slots | None:
    """Return the slots of a job, None without --enable-lora."""
    if not job.enable_lora:
        return None
    version = job.release
    words = model_type in WITH_WORDS or (model_type in MISTRALS and version < WITHOUT_AGAIN)
    aliased = model_type in QWENS and version >= LATER
    words = words or aliased
    return Slots(job.max_loras, job.max_lora_rank, words, BROUGHT if words and version < OWN_WORDS else 0, aliased)


def slots(weight: Weight, asked: Slots) -> Iterator[tuple[str, int]]:
    """Yield the name and the elements of the tensors that adapters may fill beside a weight, as a device holds it.

    >>> from oomph.tensor import Tensor
    >>> row = Weight("model.layers.*.mlp.down_proj.weight", Tensor((4096, 6144), "linear"), "mlp", ((0,),))
    >>> [size for _, size in slots(row, Slots(1, 16))]
    [98304, 65536]
    """
    if weight.role == "expert":
        raise UnsupportedError("vLLM's slots for adapters of experts are not modelled.", "Leave --enable-lora out.")
    if weight.role == "linear" and weight.kind in KINDS and bool(weight.places):
        out, into = weight.shape
        yield f"{weight.name}.lora_a", asked.count * asked.rank * into
        yield f"{weight.name}.lora_b", asked.count * asked.rank * out


def word_slots(weight: Weight, asked: Slots, tied: bool) -> Iterator[tuple[str, int]]:
    """Yield the same for a whole table of words, and for the head that a tied one is too.

    >>> from oomph.tensor import Tensor
    >>> table = Weight("model.embed_tokens.weight", Tensor((32000, 4096), "embedding"), "embedding")
    >>> [size for _, size in word_slots(table, Slots(1, 16, words=True), tied=False)]
    [512000, 65536, 0]
    """
    if not asked.words or weight.kind not in ("embedding", "lm_head"):
        return
    rows, hidden = weight.shape
    table = asked.count * asked.rank * (rows + asked.brought)
    head = asked.count * asked.rank * -(-(rows + asked.brought) // HEAD_PADDING) * HEAD_PADDING
    brought, other = asked.count * asked.brought * hidden, asked.count * asked.rank * hidden
    if weight.kind == "embedding":
        for name in ("", ".alias")[: 2 if tied and asked.aliased else 1]:
            yield f"{weight.name}{name}.lora_a", table
            yield f"{weight.name}{name}.lora_b", other
            yield f"{weight.name}{name}.lora_words", brought
    if weight.kind == "lm_head" or tied:
        yield f"{weight.name}.head.lora_a", other
        yield f"{weight.name}.head.lora_b", head if asked.brought else asked.count * asked.rank * rows
        yield f"{weight.name}.head.lora_words", brought


def with_brought(weight: Weight, asked: Slots | None) -> Weight:
    """Return a table of words with rows for those that adapters bring."""
    if asked is None or not asked.brought or weight.kind not in ("embedding", "lm_head"):
        return weight
    more = asked.brought * (asked.count if weight.kind == "embedding" else 1)
    return replace(weight, tensor=replace(weight.tensor, shape=(weight.shape[0] + more, *weight.shape[1:])))
