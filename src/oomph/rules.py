"""The published rules of thumb, reproduced to the digit, so that readers of the articles find their numbers.

Each rule says its formula, where it was published, and what it leaves out; `oomph rules MODEL` prints them
beside what oomph derives. They are never used to answer anything.

Letters: n parameters, s sequence length, b batch, h hidden size, a attention heads, L layers. The activation
rules count bytes of 16-bit tensors (their paper says so); the popular article multiplies by 2 once more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.units import GIB

if TYPE_CHECKING:
    from oomph.model import Model
    from oomph.steps import Step

PAPER = "Korthikanti et al. 2022, Reducing Activation Recomputation in Large Transformer Models, section 4"
ARTICLE = "The Kaitchup, April 2024, Estimating the Memory Consumption of LLMs for Inference and Fine-Tuning"
ZERO = "Rajbhandari et al. 2020, ZeRO, section 3.1"
ELEUTHER = "EleutherAI, Transformer Math 101 (2023)"
ACCELERATE = "accelerate 1.15, commands/estimate.py"

BYTES_PER_PARAM = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}


@dataclass(frozen=True)
class Shape:
    """What the rules know of a model and its job; real models have much more."""

    params: int
    hidden: int
    heads: int
    layers: int
    seq: int = 512
    batch: int = 8
    untied_head: int = 0  # parameters of a head that AutoModel leaves away


@dataclass(frozen=True)
class Rule:
    """One published rule: bytes from a Shape. `compare` names what oomph derives for the same thing, if it does."""

    key: str
    title: str
    formula: str
    source: str
    leaves_out: str
    bytes: Callable[[Shape], float]
    compare: str = ""

    def gib(self, shape: Shape) -> float:
        """Return the rule's answer in GiB (2^30)."""
        return self.bytes(shape) / GIB


def weights(shape: Shape, dtype: str) -> float:
    """Return n x bytes per parameter: 70e9 in bf16 is 130.39 GiB.

    >>> round(weights(Shape(70 * 10**9, 0, 0, 0), "bf16") / GIB, 2)
    130.39
    """
    return shape.params * BYTES_PER_PARAM[dtype]


def inference_activations(shape: Shape) -> int:
    """Return 32sbh + 4as²b, the activations of one layer: Command R+ at s=512, b=8 is 2.25 GiB.

    >>> inference_activations(Shape(0, 12288, 96, 64)) / GIB
    2.25
    """
    s, b, h, a = shape.seq, shape.batch, shape.hidden, shape.heads
    return 32 * s * b * h + 4 * a * s**2 * b


def training_activations(shape: Shape) -> int:
    """Return L(34sbh + 5as²b), all layers kept for the backward pass: Command R+ at s=512, b=8 is 162 GiB.

    >>> training_activations(Shape(0, 12288, 96, 64)) / GIB
    162.0
    """
    s, b, h, a = shape.seq, shape.batch, shape.hidden, shape.heads
    return shape.layers * (34 * s * b * h + 5 * a * s**2 * b)


NO_QUANT = "scales and zero points; the embedding, head and norms, which no 4- or 8-bit method quantises"
NOT_TODAY = (
    "logits and loss (often the peak), fp32 copies in RMSNorm, gated MLPs (3.5h wide, four tensors), GQA, "
    "flash attention (no s² term), what recomputation saves"
)

RULES: tuple[Rule, ...] = (
    Rule("fp32", "parameters x 4", "4n", ARTICLE, "everything but weights", lambda m: weights(m, "fp32"), "fp32"),
    Rule("bf16", "parameters x 2", "2n", ARTICLE, "everything but weights", lambda m: weights(m, "bf16"), "bf16"),
    Rule("int8", "parameters x 1", "n", ARTICLE, NO_QUANT, lambda m: weights(m, "int8"), "int8"),
    Rule("int4", "parameters x 0.5", "n/2", ARTICLE, NO_QUANT, lambda m: weights(m, "int4"), "nf4"),
    Rule(
        "plus20", "model + 20 %", "1.2 · 2n", ELEUTHER,
        "context length, batch, KV cache: it is the same at 1 token and at a million",
        lambda m: 1.2 * weights(m, "bf16"),
    ),
    Rule(
        "inference", "activations, one layer, inference", "32sbh + 4as²b", f"{ARTICLE}, after {PAPER}",
        f"KV cache; {NOT_TODAY}", inference_activations, "layer",
    ),
    Rule(
        "inference_x2", "the same, counted as 16-bit values", "2(32sbh + 4as²b)", ARTICLE,
        "the formula counts bytes at 16 bit already: the second factor 2 doubles it",
        lambda m: 2 * inference_activations(m), "layer",
    ),
    Rule(
        "training", "activations, all layers, training", "L(34sbh + 5as²b)", PAPER,
        NOT_TODAY, training_activations, "kept",
    ),
    Rule(
        "training_x2", "the same, counted as 16-bit values", "2L(34sbh + 5as²b)", ARTICLE,
        "the formula counts bytes at 16 bit already: the second factor 2 doubles it",
        lambda m: 2 * training_activations(m), "kept",
    ),
    Rule(
        "adamw_master", "AdamW: fp32 copy of the weights", "4n", ARTICLE,
        "absent in pure bf16 training; autocast keeps fp32 weights instead of a copy", lambda m: 4 * m.params,
    ),
    Rule(
        "adamw_gradients", "AdamW: 16-bit gradients", "2n", ARTICLE,
        "under autocast gradients are fp32", lambda m: 2 * m.params, "gradients",
    ),
    Rule(
        "adamw_states", "AdamW: two fp32 states", "8n", ARTICLE,
        "the foreach step's temporaries: about one more copy of the parameters", lambda m: 8 * m.params, "states",
    ),
    Rule(
        "adamw", "AdamW fine-tuning, together", "14n", ARTICLE,
        "the 16-bit weights themselves (2n), activations", lambda m: 14 * m.params,
    ),
    Rule(
        "sixteen", "16 bytes per parameter", "16n", ZERO,
        "activations, step temporaries, fragmentation; wrong for pure bf16 (8n) and fp32 gradients (18n)",
        lambda m: 16 * m.params, "step",
    ),
    Rule(
        "eleuther", "mixed precision + AdamW + fp32 gradients", "2n + 4n + 12n", ELEUTHER,
        "activations (given apart there)", lambda m: 18 * m.params, "step",
    ),
    Rule(
        "accelerate_model", "accelerate: model in 16 bit", "2n", ACCELERATE,
        "builds AutoModel, so an untied head is missing from n",
        lambda m: 2 * (m.params - m.untied_head), "bf16",
    ),
    Rule(
        "accelerate", "accelerate: training using Adam, fp32", "4 · 4n", ACCELERATE,
        "prints the largest of model, gradients, states and step, which all live at once; builds AutoModel, so "
        "an untied head is missing from n", lambda m: 16 * (m.params - m.untied_head), "step fp32",
    ),
    Rule(
        "accelerate16", "accelerate: training using Adam, 16-bit", "2 · 4n", ACCELERATE,
        "the same: a largest-of where a sum belongs", lambda m: 8 * (m.params - m.untied_head), "step bf16",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Applied:
    """A rule's answer for one model beside what oomph derives in bytes (None where it derives nothing)."""

    rule: Rule
    n_bytes: int
    truth_bytes: int | None


def shape_of(model: Model, seq: int, batch: int, params: int | None = None) -> Shape:
    """Return what the rules need of a model; heads are those of its first attention block, 0 without any."""
    from oomph.blocks.base import descend

    heads = next((n for block in descend(model.parts) if (n := getattr(block, "num_heads", 0))), 0)
    head = 0 if model.tied else model.head_params
    return Shape(params or model.params, model.hidden_size, heads, model.num_layers, seq, batch, head)


def apply(model: Model, seq: int, batch: int, params: int | None = None) -> list[Applied]:
    """Return every rule's answer for a model; `params` overrides the count, as articles use round numbers."""
    from oomph import formats, weigh

    shape = shape_of(model, seq, batch, params)
    truth = {name: weigh.in_format(model, formats.get(name)).total_bytes for name in ("fp32", "bf16", "int8", "nf4")}
    truth |= _played(model, seq, batch)
    return [Applied(rule, int(rule.bytes(shape)), truth.get(rule.compare)) for rule in RULES]


def _played(model: Model, seq: int, batch: int) -> dict[str, int]:
    """Return what playing the job gives, by the names that rules compare with; nothing where it cannot be played.

    "layer": the most one layer takes while it reads the tokens; "kept": what all layers keep for backward in bf16 with
    flash attention; "step": the peak of a whole step of AdamW, of fp32 weights under autocast unless another is named.
    """
    from oomph.errors import UnsupportedError
    from oomph.explain import saved_tensors
    from oomph.job import InferJob, TrainJob
    from oomph.steps import step

    try:
        reading = step(model, InferJob(batch, seq, cache="none"))
        plain, mixed = (step(model, TrainJob(batch, seq, precision=one)) for one in ("bf16", "amp-bf16"))
        full = step(model, TrainJob(batch, seq, precision="fp32", attention="efficient"))
        kept = saved_tensors(model, TrainJob(batch, seq)).layers_bytes
    except UnsupportedError:
        return {}
    layer = next(one for one in reading.stretches if one.name.startswith("layer"))
    gradients, states = (_kept(one, group) for one, group in ((plain, "gradients"), (mixed, "optimizer")))
    return {
        "layer": max(layer.tops) - layer.start,
        "kept": kept,
        "gradients": gradients,
        "states": states,
        "step": mixed.peak,
        "step fp32": full.peak,
        "step bf16": plain.peak,
    }


def _kept(played: Step, group: str) -> int:
    """Return the most bytes of a group alive at the optimizer's step."""
    from oomph.peak import by_group

    heights = by_group(played, group)
    return max(max(heights[at]) for at, one in enumerate(played.stretches) if one.name == "optimizer step")


def to_dict(model: Model, applied: list[Applied], seq: int, batch: int) -> dict[str, Any]:
    """Return the comparison as JSON knows it; bytes as integers."""
    return {
        "model": {"name": model.name, "params": model.params, "active_params": model.active_params},
        "job": {"seq": seq, "batch": batch},
        "rules": [
            {
                "key": row.rule.key,
                "title": row.rule.title,
                "formula": row.rule.formula,
                "bytes": row.n_bytes,
                "truth_bytes": row.truth_bytes,
                "source": row.rule.source,
                "leaves_out": row.rule.leaves_out,
            }
            for row in applied
        ],
    }
