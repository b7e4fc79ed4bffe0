"""The slots that --enable-lora makes beside every map of the decoder: A and B of the largest rank for each adapter.

A reads a device's part of the inputs, B writes its part of the outputs; maps that lie side by side have a pair each.
Some classes take adapters of words too: their slots hold the whole vocabulary on every device, and before 0.12 rows for
words that an adapter brings, beside them and in the tables themselves. Source: vllm/lora/layers.py, lora/models.py and
model_executor/models/ of vLLM 0.8.5, 0.10.2, 0.12.0 and 0.15.0; lora/layers/ and lora/model_manager.py of 0.19.0.

Experts have slots from 0.12 on (lora/layers/fused_moe.py), none in 0.10.2: each expert a pair for each of its maps, and
one A for gate and up where the class says that adapters keep them in one (is_3d_moe_weight).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oomph.errors import UnsupportedError
from oomph.tensor import Weight

if TYPE_CHECKING:
    from oomph.engines.vllm.job import Version, VllmJob

KINDS = frozenset({"attention", "mlp", "linear_attention", "moe_shared_expert"})
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
ROUTERS = frozenset({"mixtral", "qwen3_moe", "qwen3_next", "qwen3_5_moe_text", "qwen3_vl_moe_text"})  # ReplicatedLinear
ONE_A = {  # is_3d_moe_weight, and since when read
    "gpt_oss": (0, 12, 0), "qwen3_vl_moe_text": (0, 12, 0), "qwen3_5_moe_text": (0, 19, 0),
    "qwen3_omni_moe_thinker": (0, 33, 0),
}  # fmt: skip
NO_EXPERTS, EXPERTS_TOO = (0, 11, 0), (0, 12, 0)  # what came between was not read
UPS = frozenset({"up_proj", "w3"})
COUNTED: Version = (0, 8, 0)  # from here on slots are made before the line of what loading took: not yet in 0.7.3


@dataclass(frozen=True)
class Slots:
    """`count` adapters at once, of at most `rank`; of `words` too, each with `brought` of its own; `aliased` heads.

    `experts` have slots too, with one A for gate and up where `one_a`; the `routers` have some.
    """

    count: int
    rank: int
    words: bool = False
    brought: int = 0
    aliased: bool = False
    experts: bool | None = None
    one_a: bool = False
    routers: bool = False


def asked_slots(job: VllmJob, model_type: str) -> Slots | None:
    """Return the slots of a job, None without --enable-lora."""
    if not job.enable_lora:
        return None
    version = job.release
    words = model_type in WITH_WORDS or (model_type in MISTRALS and version < WITHOUT_AGAIN)
    aliased = model_type in QWENS and version >= LATER
    words = words or aliased
    brought = BROUGHT if words and version < OWN_WORDS else 0
    experts = version >= EXPERTS_TOO if version >= EXPERTS_TOO or version <= NO_EXPERTS else None
    one_a = model_type in ONE_A and version >= ONE_A[model_type]
    routers = model_type in ROUTERS
    return Slots(job.max_loras, job.max_lora_rank, words, brought, aliased, experts, one_a, routers)


def slots(weight: Weight, asked: Slots) -> Iterator[tuple[str, int]]:
    """Yield the name and the elements of the tensors that adapters may fill beside a weight, as a device holds it.

    >>> from oomph.tensor import Tensor
    >>> row = Weight("model.layers.*.mlp.down_proj.weight", Tensor((4096, 6144), "linear"), "mlp", ((0,),))
    >>> [size for _, size in slots(row, Slots(1, 16))]
    [98304, 65536]
    >>> one = Weight("layers.*.experts.*.up_proj.weight", Tensor((768, 2048), "expert"), "moe_experts", ((0,), (0, 1)))
    >>> [size for _, size in slots(one, Slots(1, 16, experts=True))]
    [65536, 24576]
    """
    of_experts = weight.kind == "moe_experts" and weight.role == "expert"
    if of_experts and asked.experts is None:
        raise UnsupportedError(
            "vLLM's slots for adapters of experts were not read in 0.11.1.", "Ask for 0.12 or later."
        )
    is_map = weight.role == "linear" and weight.kind in KINDS and bool(weight.places)
    is_router = asked.routers and weight.kind == "moe_router" and weight.role == "router"
    if is_map or is_router or (of_experts and asked.experts):
        out, into = weight.shape
        copies = len(weight.places[-1]) if of_experts else 1
        own = weight.name.removesuffix(".weight").rpartition(".")[2]
        if not (of_experts and asked.one_a and own in UPS):
            pairs = 2 if of_experts and own == "gate_up_proj" and not asked.one_a else 1
            yield f"{weight.name}.lora_a", pairs * copies * asked.count * asked.rank * into
        yield f"{weight.name}.lora_b", copies * asked.count * asked.rank * out


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
