"""A model as LitGPT builds it, and its four ways to fine-tune: its own blocks in the place of transformers'.

Head and embedding are two tables whatever the checkpoint ties; every linear map is quantised, the head too; adapters
stand beside the fused map, not beside query, key and value. Source: litgpt 0.5.13, model.py, lora.py, adapter.py,
adapter_v2.py, finetune/*.py, scripts/convert_hf_checkpoint.py, and the same files of earlier releases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Part, Stack, rewritten
from oomph.blocks.basic import Embedding, Head, Linear, Norm
from oomph.blocks.litgpt import CausalSelfAttention, GptNeoxMLP, Layer, LLaMAMLP, Release, RMSNorm, SoftCap
from oomph.blocks.mlp import MLP, GatedMLP
from oomph.errors import UnsupportedError, UsageError, close_matches
from oomph.methods.bitsandbytes import Linear4bit
from oomph.methods.litgpt_adapters import AdapterV2Linear, LoRALinear, LoRAQKVLinear, StableEmbedding
from oomph.methods.quantised import quantised
from oomph.methods.targets import ALL_LINEAR, DEFAULT, inner, split
from oomph.structure import decoder_stack
from oomph.tape.sizes import yes
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model

# By the name of the model code: releases between two of them do as the earlier one.
RELEASES: dict[str, Release] = {
    "litgpt": Release(),  # since 0.5.4
    "litgpt-0.4": Release(  # 0.4.6 to 0.5.0
        groups=True, sums="mlp first", indices="kept", capped_chunks=False, stable_embedding=False,
        keeps_4bit_inputs=True,
    ),
    "litgpt-0.3": Release(  # March to May 2024
        "cast, scaled", groups=True, sums="mlp first", indices="anew", count="compared", capped_chunks=False,
        stable_embedding=False, keeps_4bit_inputs=True,
    ),
    "lit-gpt": Release(  # 24 October 2023 to January 2024
        "narrow scaled, cast", groups=True, sums="mlp first", indices="anew", keeps_normed=True, keeps_loss=True,
        count="none", capped_chunks=False, stable_embedding=False, keeps_4bit_inputs=True,
    ),
}  # fmt: skip
QKV = ("query", "key", "value")
TARGETS = (*QKV, "projection", "mlp", "head")  # lora_query ... of its configs
PREFIX = "lora_"
FABRIC = "fp16"  # what Lightning Fabric casts weights to before they are quantised: "bnb requires half"
MODEL_TYPE = "litgpt"
SILU = ("silu", "swish")
EVERY_MAP = frozenset(TARGETS) - {"head"}
PROMPT_LENGTH, FIRST_WITH_PROMPT = 10, 2  # adapter_prompt_length, adapter_start_layer
PROMPT = ("adapter_wte", "gating_factor")
ADAPTED: dict[str, tuple[str, ...]] = {  # what trains, by a part of its name
    "adapter": PROMPT,
    "adapter_v2": (*PROMPT, "adapter_scale", "adapter_bias", "norm_1", "norm_2", "ln_f"),
}


@dataclass(frozen=True)
class Family:
    """Where a family keeps what LitGPT's Block has: its norms, "" where there is none; other options of the class.

    `windows`: its layers have their window in earlier releases too; in the newest those of all families do.
    """

    norm_1: str = "input_layernorm"
    norm_2: str = "post_attention_layernorm"
    post_attention: str = ""
    post_mlp: str = ""
    parallel: bool = False
    plus_one: bool = False
    windows: bool = False


LLAMA = Family()
FAMILIES: dict[str, Family] = {
    "falcon": LLAMA,
    "gemma": Family(plus_one=True),
    "gemma2": Family(
        norm_2="pre_feedforward_layernorm", post_attention="post_attention_layernorm",
        post_mlp="post_feedforward_layernorm", plus_one=True, windows=True,
    ),
    "gpt_neox": LLAMA,
    "llama": LLAMA,
    "mistral": LLAMA,
    "phi": Family(parallel=True),
    "phi3": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "stablelm": LLAMA,
}  # fmt: skip
FALCON_NORMS = ("ln_attn", "ln_mlp")  # of its new architecture
Maps = Callable[[str, Linear], Block]


def adapt(model: Model, job: TrainJob) -> Model:
    """Return LitGPT's model for a job: its blocks, quantised, with adapters, and what is frozen marked.

    Raises UnsupportedError for a family or an input of the job that LitGPT, or oomph, has no code for.
    """
    _check(model, job)
    release = RELEASES[job.model_code]
    made = _as_litgpt(model, job, release)
    if job.method == "full":
        return made
    if job.quantization != "none":
        made = _by_fabric(quantised(made, job), release)
    words = ADAPTED.get(job.method, (PREFIX,))

    def mark(path: str, part: Part) -> Part:
        return replace(part, trains=any(word in path for word in words)) if isinstance(part, Tensor) else part

    made = replace(made, parts={path: rewritten(part, mark, path) for path, part in made.parts.items()})
    if job.quantization != "none" and release.stable_embedding:
        table = inner(made.parts["transformer.wte"])
        assert isinstance(table, Embedding)
        stable = StableEmbedding(table.rows, table.size, table.scaled)
        made = replace(made, parts={**made.parts, "transformer.wte": stable})
    return made


def _by_fabric(model: Model, release: Release) -> Model:
    """Return a quantised model as Lightning Fabric quantises it, with the bitsandbytes of the release's time."""

    def change(path: str, part: Part) -> Part:
        if not isinstance(part, Linear4bit):
            return part
        return replace(part, loaded=FABRIC, unfused=True, keeps_inputs=release.keeps_4bit_inputs)

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})


def _check(model: Model, job: TrainJob) -> None:
    """Refuse by name what LitGPT's recipes on one device do not have, or oomph does not know of them."""
    if model.model_type not in FAMILIES or "transformer.alibi" in model.parts:
        raise UnsupportedError(
            f"oomph does not know LitGPT's code for {model.model_type or 'this model'} yet.",
            f"It knows {', '.join(sorted(FAMILIES))}.",
        )
    for wrong, what in (
        (job.loss != "litgpt", f"loss {job.loss}"),
        (job.checkpointing != "none", "checkpointing on one device"),
        (job.padding or job.packs, "masks of padding or packing"),
        (bool(job.modules_to_save), "modules_to_save"),
        (job.freeze_embeddings or job.freeze_layers > 0, "parts that freeze"),
        (job.method not in ("full", "lora", "qlora", *ADAPTED), f"method {job.method}"),
        (job.use_cache, "cache while training"),
        (job.optimizer_in_backward, "optimizer that steps in backward"),
        (not job.quantization.startswith(("none", "nf4", "fp4")), f"base in {job.quantization} that oomph knows"),
    ):
        if wrong:
            raise UsageError(
                f"LitGPT has no {what}.", "Leave it out; --framework litgpt takes what goes with its code."
            )


def _as_litgpt(model: Model, job: TrainJob, release: Release) -> Model:
    """Return LitGPT's modules for a model, adapters among them, nothing frozen yet."""
    _, stack = decoder_stack(model)
    maps, family = _maps(job, release), FAMILIES[model.model_type]
    table = next(part for part in model.parts.values() if isinstance(part, Embedding))
    head = next(part for part in model.parts.values() if isinstance(part, Head))
    final = next(part for part in reversed(list(model.parts.values())) if isinstance(part, Norm))
    build = _Builder(family, maps, release, job.model_code == "litgpt" or family.windows, job)
    made = {id(layer): build.layer(layer, prompt=0) for layer, _ in stack.groups()}
    layers = [made[id(layer)] for layer in stack.layers]
    if job.method in ADAPTED:
        prompted = {id(layer): build.layer(layer, prompt=PROMPT_LENGTH) for layer, _ in stack.groups()}
        layers[FIRST_WITH_PROMPT:] = [prompted[id(layer)] for layer in stack.layers[FIRST_WITH_PROMPT:]]
    tables = Tensor((job.seq_len, layers[0].attn.rotary_dim), "buffer", trains=False)
    capped = head.softcap and (release.capped_chunks or job.method == "full")
    parts: dict[str, Part] = {
        "lm_head": maps("head", Linear(head.hidden_size, head.vocab_size, head.bias)),
        "transformer.wte": table,
        "transformer.h": Stack(tuple(layers)),
        "transformer.ln_f": build.norm(final),
        "cos": tables,
        "sin": tables,
        "clamp_head": SoftCap() if capped else None,
    }
    kept = tuple(word for word in model.unplayed if "rope" not in word)  # its tables are made once, whatever their kind
    return replace(model, parts=parts, model_type=MODEL_TYPE, tied=False, unplayed=kept)


def _maps(job: TrainJob, release: Release) -> Maps:
    """Return what puts an adapter beside a linear map where the job targets it: the name of a target and the map."""
    targets = _targets(job) if job.method in ("lora", "qlora") else frozenset()
    rate = job.adapter_dropout if job.dropout else 0.0

    def plain(target: str, linear: Linear) -> Block:
        if job.method == "adapter_v2":
            return AdapterV2Linear(linear)
        return LoRALinear(linear, job.rank, rate) if target in targets else linear

    return plain


def _targets(job: TrainJob) -> frozenset[str]:
    """Return which maps get an adapter, in LitGPT's words; raises UsageError for another word."""
    if job.targets == DEFAULT:
        return frozenset({"query", "value"})
    if job.targets == ALL_LINEAR:
        return EVERY_MAP
    found = frozenset(word.removeprefix(PREFIX) for word in split(job.targets))
    for word in sorted(found - set(TARGETS)):
        hint = close_matches(word, TARGETS) or f"Its targets are {', '.join(TARGETS)}."
        raise UsageError(f"LitGPT adapts no {word[:80]!r}.", hint)
    return found


@dataclass(frozen=True)
class _Builder:
    """What makes LitGPT's Block of a family's decoder layer."""

    family: Family
    maps: Maps
    release: Release
    windows: bool
    job: TrainJob

    def layer(self, layer: Part, prompt: int) -> Layer:
        """Return a layer whose tokens attend to `prompt` vectors too."""
        assert isinstance(layer, Block)
        parts = layer.parts
        attention = next(part for part in parts.values() if isinstance(part, Attention))
        mlp = next(part for part in parts.values() if isinstance(part, (MLP, GatedMLP)))
        first, second = FALCON_NORMS if FALCON_NORMS[0] in parts else (self.family.norm_1, self.family.norm_2)
        return Layer(
            self.norm(parts[first]),
            self.attention(attention, prompt),
            self.mlp(mlp),
            self.release,
            self.norm_or_none(parts.get(second)),
            self.norm_or_none(parts.get(self.family.post_attention)),
            self.norm_or_none(parts.get(self.family.post_mlp)),
            self.family.parallel or getattr(layer, "parallel", False) or parts.get(second) is None,
        )

    def norm_or_none(self, norm: Part) -> Block | None:
        """Return a norm, None for none."""
        return None if norm is None else self.norm(norm)

    def norm(self, norm: Part) -> Block:
        """Return nn.LayerNorm for what has a bias, else RMSNorm."""
        if not isinstance(norm, Norm):
            raise UnsupportedError("oomph does not know this norm in LitGPT.", "Take --model-code transformers.")
        return replace(norm, style="") if norm.bias else RMSNorm(norm.size, self.release, self.family.plus_one)

    def mlp(self, mlp: MLP | GatedMLP) -> Block:
        """Return GptNeoxMLP for two maps, LLaMAMLP or GemmaMLP for three; fused ones are taken apart."""
        into, out = Linear(mlp.hidden_size, mlp.ffn_size, mlp.bias), Linear(mlp.ffn_size, mlp.hidden_size, mlp.bias)
        up, down = self.maps("mlp", into), self.maps("mlp", out)
        if isinstance(mlp, MLP):
            return GptNeoxMLP(up, down)
        return LLaMAMLP(up, up, down, "silu" if mlp.activation in SILU else "gelu")

    def attention(self, a: Attention, prompt: int) -> CausalSelfAttention:
        """Return the attention with its fused map."""
        widths = (a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim, a.num_kv_heads * a.head_dim)
        fused = Linear(a.hidden_size, sum(widths), a.qkv_bias)
        return CausalSelfAttention(
            self.qkv(fused, widths),
            self.maps("projection", Linear(widths[0], a.out_features or a.hidden_size, a.out_bias)),
            a.num_heads,
            a.num_kv_heads,
            a.head_dim,
            a.head_dim if a.rotary_dim is None else a.rotary_dim,
            self.release,
            self.norm_or_none(a.q_norm),
            a.sliding_window if self.windows else None,
            a.softcap,
            prompt,
            a.hidden_size,
        )

    def qkv(self, fused: Linear, widths: tuple[int, int, int]) -> Block:
        """Return the fused map with adapters for those of query, key and value that are targeted."""
        job = self.job
        if job.method not in ("lora", "qlora"):
            return self.maps("query", fused)
        chosen = _targets(job)
        taken = tuple(width for name, width in zip(QKV, widths, strict=True) if name in chosen)
        if not taken:
            return fused
        rate = job.adapter_dropout if job.dropout else 0.0
        alike, total = yes(widths[0] == widths[1]), len(taken) == len(QKV)
        return LoRAQKVLinear(fused, job.rank, rate, taken, alike, total, self.release)
