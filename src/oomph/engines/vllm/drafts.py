"""Drafts of their own weights: heads that guess ahead of a model (EAGLE, EAGLE-3, DFlash, Medusa), and whole models.

A head shares the model's table of words, and its output map where it has no vocabulary of its own; its layers keep keys
and values of all tokens beside the model's. Methods that look guesses up (ngram, suffix) hold nothing on the device.

What a head is wide, its config says. Where that is not at hand (data/vllm_drafts.json knows some), one layer of the
model's own widths is assumed, as EAGLE's heads are trained for dense models, and said.

Source: v1/spec_decode/, models/llama_eagle.py, llama_eagle3.py, laguna_dflash.py, medusa.py, config/speculative.py of
vLLM 0.10.2, 0.12.0, 0.19.0, 0.22.0 and 0.25.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from oomph import data, formats
from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module, Part, descend, walk
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.cached import TokenCache
from oomph.blocks.mlp import GatedMLP
from oomph.caches import layer_caches
from oomph.engines.memo import remembered
from oomph.engines.rope import tables
from oomph.engines.tensor_parallel import key_heads
from oomph.engines.vllm.settings import LOOKED_UP
from oomph.engines.vllm.weights import one_by_one, tensors
from oomph.errors import UnsupportedError
from oomph.sources import catalogue
from oomph.structure import decoder_stack
from oomph.tensor import Tensor, Weight

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.engines.rope import Table
    from oomph.engines.vllm.job import Version, VllmJob
    from oomph.engines.vllm.weights import Held, Plan
    from oomph.formats.base import Format
    from oomph.model import Model

HEADS = frozenset({"eagle", "eagle3", "dflash", "medusa"})
WHOLE = "draft_model"
SINCE: Mapping[str, Version] = {
    "eagle": (0, 9, 0), "eagle3": (0, 9, 0), "medusa": (0, 9, 0), "dflash": (0, 20, 0), WHOLE: (0, 15, 0)
}  # fmt: skip
EAGLE3_WORDS = 32000  # draft_vocab_size that EAGLE-3's own training takes (SafeAILab/EAGLE, SpecForge's configs)
EAGLE3_JOINED = 3  # layers of the model whose outputs a head reads, where its config names none: llama_eagle3.py
MEDUSA_HEADS = 5  # transformers_utils/configs/medusa.py


@dataclass(frozen=True)
class Head:
    """The widths of a head: `joined` outputs of the model go in; `words` of its own, 0: the model's.

    `normed`: queries and keys are; `gate`: a gate for each head of attention.
    """

    hidden_size: int
    ffn_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    layers: int = 1
    joined: int = EAGLE3_JOINED
    words: int = 0
    normed: bool = False
    gate: bool = False


@dataclass(frozen=True)
class Draft:
    """What guesses ahead: `rows` are a head's weights, `kept` what each of its layers keeps of a token.

    `whole` is a model that drafts; `stacked` tells that keys' and values' maps of all layers are kept once more, in one
    tensor; `said` is what was assumed.
    """

    method: str
    rows: tuple[Weight, ...] = ()
    kept: tuple[TokenCache, ...] = ()
    whole: Subject | None = None
    stacked: bool = False
    said: str = ""

    def step_bytes(self, tokens: int, width: int) -> int:
        """Return what a draft's own step over as many tokens may hold at most: the model's outputs, a layer's MLP."""
        if self.whole is not None:
            sizes = [sum(row.shape) for row in self.whole.model.weights if len(row.shape) > 1 and row.places]
        else:
            sizes = [sum(row.shape) for row in self.rows if len(row.shape) > 1 and row.role == "linear"]
        return 2 * tokens * max(sizes, default=0) * width

    def stacked_bytes(self, tp: int, width: int) -> int:
        """Return the bytes of those maps on one of `tp` devices."""
        if not self.stacked:
            return 0
        hidden = next(row.shape[1] for row in self.rows if row.name.endswith("k_proj.weight"))
        each = sum(key_heads(one.heads, tp) * (one.key_dim + one.value_dim) for one in self.kept)
        return each * hidden * width


def draft(found: Subject, job: VllmJob) -> Draft | None:
    """Return what a job drafts with, None where it does not, or with the model's own prediction layers.

    Raises UnsupportedError for a version that does not know the method, for a draft of unknown widths, and for
    prediction layers that the model does not have.
    """
    asked = job.speculation
    method = asked.get("method")
    if method is None:
        return None
    if method not in LOOKED_UP | HEADS | {WHOLE}:
        if not any(row.kind == "mtp" for row in found.model.weights):
            raise UnsupportedError(
                f"{found.model.name} has no prediction layers that oomph knows, which {method} guesses ahead with.",
                "Name a draft: eagle3, draft_model or ngram.",
            )
        return None
    if job.release < SINCE.get(method, job.release):
        raise UnsupportedError(
            f"Speculative decoding by {method} is modelled from vLLM {'.'.join(map(str, SINCE[method]))} on.",
            "Name a newer version.",
        )
    name = str(asked.get("model") or "")
    return remembered(found.model, ("draft", method, name), lambda: _made(found, method, name))


def _made(found: Subject, method: str, name: str) -> Draft:
    if method in LOOKED_UP:
        return Draft(method)
    if method == WHOLE:
        return Draft(method, whole=_whole(name), said=f"drafts by {name}, whole")
    if method == "medusa":
        said = f"{MEDUSA_HEADS} heads of Medusa, each with an output map of its own, as its config has by default"
        return Draft(method, tuple(_medusa(found.model)), said=said)
    known = _known().get(name.lower())
    head = Head(**known) if known else _as_the_model(found.model, method, name)
    own = "of the sizes its repository tells" if known else "one layer of the model's own widths"
    words = f", {head.words:,} words of its own" if head.words else ""
    rows = tuple(_rows(head, method, found.model.hidden_size))
    kept = (TokenCache(head.num_kv_heads, head.head_dim, head.head_dim),) * head.layers
    return Draft(method, rows, kept, stacked=method == "dflash", said=f"a head by {method}: {own}{words}")


@cache
def _known() -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = json.loads(data.read_text("vllm_drafts.json"))["drafts"]
    return found


def _whole(name: str) -> Subject:
    """Return a catalogued model that drafts."""
    from oomph.answer import Subject
    from oomph.families import model_from_config

    source = catalogue.find(name) or catalogue.find(name.rpartition("/")[2])
    if source is None or source.config is None:
        raise UnsupportedError(
            f"The draft {name[:60]!r} is not in the catalogue, and drafts are looked for nowhere else.",
            "Serve it alone to see what it takes: its weights and its keys and values come on top.",
        )
    return Subject(source, model_from_config(source.config, source.name), "config")


def _as_the_model(model: Model, method: str, name: str) -> Head:
    """Return a head of the model's own widths; those of mixtures, and DFlash's, follow from nothing known here."""
    blocks = [block for layer, _ in decoder_stack(model)[1].groups() for block in descend({"": layer})]
    attention = next((block for block in blocks if isinstance(block, Attention)), None)
    mlp = next((block for block in blocks if isinstance(block, GatedMLP)), None)
    mixed = any(row.role == "expert" for row in model.weights)
    if method == "dflash" or attention is None or mlp is None or mixed:
        raise UnsupportedError(
            f"How wide the head {name[:60]!r} is, is not known: it does not follow from the model.",
            "Of heads oomph knows EAGLE's and EAGLE-3's of dense models, and what data/vllm_drafts.json lists.",
        )
    return Head(
        model.hidden_size,
        mlp.ffn_size,
        attention.num_heads,
        attention.num_kv_heads,
        attention.head_dim,
        words=EAGLE3_WORDS if method == "eagle3" else 0,
    )


def _rows(head: Head, method: str, target: int) -> list[Weight]:
    """Return a head's weights; `target` is the width of the model's outputs."""
    hidden = head.hidden_size
    joined = 2 * hidden if method == "eagle" else head.joined * target
    parts: dict[str, Part] = {"fc": Linear(joined, hidden, role="linear")}
    for index in range(head.layers):
        parts[f"layers.{index}"] = _layer(head, method, index)
    if method != "eagle":
        parts["norm"] = Norm(hidden)
    if method == "dflash":
        parts |= {"hidden_norm": Norm(hidden), "mask_embedding": Tensor((hidden,), "param")}
        parts |= {f"aux_hidden_norms.{index}": Norm(target) for index in range(head.joined)}
    if head.words:
        parts["lm_head"] = _Words(hidden, head.words)
    return list(walk(Module(parts), "draft", "mtp"))


def _layer(head: Head, method: str, index: int) -> Module:
    """Return one layer; EAGLE-3's first reads words and states side by side, EAGLE's norms neither."""
    hidden, dim = head.hidden_size, head.head_dim
    into = 2 * hidden if method == "eagle3" and index == 0 else hidden
    attention: dict[str, Part] = {
        "q_proj": Linear(into, head.num_heads * dim),
        "k_proj": Linear(into, head.num_kv_heads * dim),
        "v_proj": Linear(into, head.num_kv_heads * dim),
        "o_proj": Linear(head.num_heads * dim, hidden),
    }
    if head.gate:
        attention["g_proj"] = Linear(hidden, head.num_heads)
    if head.normed:
        attention |= {"q_norm": Norm(dim), "k_norm": Norm(dim)}
    norms: dict[str, Part] = {"post_attention_layernorm": Norm(hidden)}
    if method != "eagle" or index:
        norms["input_layernorm"] = Norm(hidden)
    if method == "eagle3":
        norms["hidden_norm"] = Norm(hidden)
    return Module({"self_attn": Module(attention), "mlp": GatedMLP(hidden, head.ffn_size), **norms})


@dataclass(frozen=True)
class _Words(Block):
    """An output map over a draft's own words."""

    hidden_size: int
    words: int
    kind: str = "lm_head"

    @property
    def parts(self) -> dict[str, Part]:
        """The map."""
        return {"weight": Tensor((self.words, self.hidden_size), "head")}


def _medusa(model: Model) -> list[Weight]:
    """Return Medusa's heads: a square map each, whole on every device, and an output map."""
    hidden = model.hidden_size
    parts: dict[str, Part] = {}
    for index in range(MEDUSA_HEADS):
        parts[f"blocks.{index}.fc"] = Linear(hidden, hidden)
        parts[f"lm_heads.{index}"] = _Words(hidden, model.vocab_size)
    return list(walk(Module(parts), "draft", "mtp"))


def cached_of(drawn: Draft) -> list[TokenCache]:
    """Return what each layer of a draft keeps of a token; raises UnsupportedError for drafts that keep states."""
    if drawn.whole is None:
        return list(drawn.kept)
    kept = [each for group in layer_caches(drawn.whole.model) for _ in group.layers for each in group.cached]
    tokens = [each for each in kept if isinstance(each, TokenCache)]
    if len(tokens) < len(kept):
        raise UnsupportedError(
            f"Drafts with recurrent states ({drawn.whole.model.name}) are not modelled.", "Name another draft."
        )
    return tokens


def draft_tensors(drawn: Draft, model: Model, fmt: Format, plan: Plan) -> tuple[tuple[Held, ...], tuple[Table, ...]]:
    """Return a draft's tensors on the device of the last stage, and its tables of cosines and sines."""
    alone = replace(plan, pp=1, stage=0, lora=None, mtp=False, host_bytes=0)
    if drawn.whole is None:
        kept = drawn.kept[0] if drawn.kept else None
        plain = formats.get(fmt.rest)
        rows = list(drawn.rows)
        if plan.pp > 1 and drawn.kept:  # the last stage has no table of words to share
            rows += [row for row in model.weights if row.kind == "embedding" and not row.places]
        return tuple(replace(each, layers=()) for each in tensors(rows, model, plain, alone, kept)), ()
    other, config = drawn.whole.model, drawn.whole.source.config or {}
    asked = formats.asked_for(config)
    stored = replace(formats.from_config(asked, fmt.rest), rest=fmt.rest) if asked else formats.get(fmt.rest)
    made = one_by_one(other, stored, alone)
    return tuple(replace(each, name=f"draft.{each.name}") for each in made), tables(other, config)
