"""What llama.cpp reads of a model beside its tensors: told by the model's blocks, or by a file's metadata."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Stack, descend
from oomph.blocks.latent_attention import LatentAttention
from oomph.blocks.linear_attention import GatedDeltaNet
from oomph.blocks.mamba import Mamba, Mamba2
from oomph.blocks.moe import MoE
from oomph.blocks.shared_kv import KeyAsValueAttention
from oomph.blocks.short_conv import ShortConv
from oomph.engines.llamacpp.graph_setup import Hparams
from oomph.engines.llamacpp.sizes import Metadata, Sizes
from oomph.errors import UnsupportedError
from oomph.model import Model
from oomph.structure import decoder_stack
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.header import Header

MOST_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
# How the router of an architecture makes weights of scores; softmax over all experts where none is named.
GATING = {
    "gpt-oss": "softmax_weight",
    "deepseek2": "sigmoid",
    "glm4moe": "sigmoid",
    "lfm2moe": "sigmoid",
    "minimax-m2": "sigmoid",
    "llama4": "sigmoid",
}


@dataclass(frozen=True)
class _Layer:
    """One layer's mixer in llama.cpp's terms."""

    n_head: int = 0
    n_head_kv: int = 0
    head_k: int = 0
    head_v: int = 0
    swa: bool = False
    rope: bool = True
    recurrent: bool = False


def hparams_of(model: Model, arch: str) -> Hparams:
    """Return a model's sizes as llama.cpp's graph builders ask for them.

    >>> from oomph import load
    >>> hparams_of(load("llama-3-8b"), "llama").n_head_kv[:2]
    (8, 8)
    """
    layers: dict[int, _Layer] = {}
    found: list[Block] = []
    for layer, places in decoder_stack(model)[1].groups():
        blocks = [] if isinstance(layer, Tensor) else list(descend({"": layer}))
        mixer = _mixer(blocks)
        if mixer is None:
            raise UnsupportedError(
                f"oomph does not know what llama.cpp's graph of {arch} does in layer {places[0]}.",
                "Take the compute buffer from the engine's own log.",
            )
        layers.update(dict.fromkeys(places, mixer))
        found += blocks
    in_order = [layers[il] for il in sorted(layers)]
    experts = next((block for block in found if isinstance(block, MoE)), None)
    latent = next((block for block in found if isinstance(block, LatentAttention)), None)
    sizes = Hparams(
        n_head=tuple(each.n_head for each in in_order),
        n_head_kv=tuple(each.n_head_kv for each in in_order),
        head_k=tuple(each.head_k for each in in_order),
        head_v=tuple(each.head_v for each in in_order),
        swa=tuple(each.swa for each in in_order),
        rope=tuple(each.rope for each in in_order),
        recurrent=tuple(each.recurrent for each in in_order),
        deepstack=max((getattr(part, "num_deep", 0) for part in model.parts.values()), default=0),
        parallel=any(getattr(block, "parallel", False) for block in found),
        softcap=any(isinstance(block, Attention) and block.softcap for block in found),
        n_expert_used=experts.top_k
        if experts
        else max((b.used or 0 for b in found if isinstance(b, Stack)), default=0),
        norm_weights=experts.normalised if experts else True,
        gating=GATING.get(arch, "softmax"),
        n_expert_groups=experts.groups[0] if experts else 0,
        n_group_used=experts.groups[1] if experts else 0,
        rope_dim=latent.qk_rope_head_dim if latent else 0,
    )
    return _with_states(sizes, found)


def _mixer(blocks: list[Block]) -> _Layer | None:
    for block in blocks:
        if isinstance(block, LatentAttention):
            rank = block.kv_lora_rank
            return _Layer(block.num_heads, 1, rank + block.qk_rope_head_dim, rank)
        if isinstance(block, Attention):
            swa, dim = block.sliding_window is not None, block.head_dim
            values = block.v_head_dim or dim
            return _Layer(block.num_heads, block.num_kv_heads, dim, values, swa, bool(block.rotary))
        if isinstance(block, KeyAsValueAttention):
            return _Layer(block.num_heads, block.num_kv_heads, block.head_dim, block.head_dim)
        if isinstance(block, (Mamba, Mamba2, GatedDeltaNet, ShortConv)):
            return _Layer(recurrent=True)
    return None


def _with_states(sizes: Hparams, blocks: list[Block]) -> Hparams:
    """Return the sizes with those of the states, which the file's keys ssm.* and shortconv.* hold."""
    for block in blocks:
        if isinstance(block, Mamba):
            return replace(
                sizes,
                conv_kernel=block.conv_kernel,
                state_size=block.state_size,
                inner_size=block.inner_size,
                time_step_rank=block.time_step_rank,
            )
        if isinstance(block, Mamba2):
            return replace(
                sizes,
                conv_kernel=block.conv_kernel,
                state_size=block.state_size,
                inner_size=block.num_heads * block.head_dim,
                time_step_rank=block.num_heads,
                group_count=block.num_groups,
            )
        if isinstance(block, GatedDeltaNet):
            return replace(
                sizes,
                conv_kernel=block.conv_kernel,
                state_size=block.key_head_dim,
                inner_size=block.num_value_heads * block.value_head_dim,
                time_step_rank=block.num_value_heads,
                group_count=block.num_key_heads,
            )
        if isinstance(block, ShortConv):
            return replace(sizes, conv_kernel=block.conv_kernel)
    return sizes


def hparams_of_file(header: Header, sizes: Sizes, layers: int) -> Hparams:
    """Return the same of a GGUF file, `layers` of which are in it, prediction layers among them."""
    said = Metadata(header.metadata, sizes.arch, layers)
    if said.number("expert_used_count", 0) > MOST_EXPERTS:
        raise UnsupportedError(f"llama.cpp computes no more than {MOST_EXPERTS} experts of a token.")
    in_order = [_layer_of_file(said, sizes, il) for il in range(len(sizes.kept))]
    return Hparams(
        n_head=tuple(each.n_head for each in in_order),
        n_head_kv=tuple(each.n_head_kv for each in in_order),
        head_k=tuple(each.head_k for each in in_order),
        head_v=tuple(each.head_v for each in in_order),
        swa=tuple(each.swa for each in in_order),
        rope=tuple(each.rope for each in in_order),
        recurrent=tuple(each.recurrent for each in in_order),
        deepstack=said.number("n_deepstack_layers", 0),
        parallel=bool(said.number("use_parallel_residual", 0)),
        softcap=said.has("attn_logit_softcapping"),
        n_expert_used=said.number("expert_used_count", 0),
        norm_weights=bool(said.number("expert_weights_norm", 0)),
        gating=GATING.get(sizes.arch, "softmax"),
        n_expert_groups=said.number("expert_group_count", 0),
        n_group_used=said.number("expert_group_used_count", 0),
        rope_dim=said.number("rope.dimension_count", 0) if sizes.latent else 0,
        conv_kernel=said.number("ssm.conv_kernel", said.number("shortconv.l_cache", 0)),
        state_size=said.number("ssm.state_size", 0),
        inner_size=said.number("ssm.inner_size", 0),
        time_step_rank=said.number("ssm.time_step_rank", 0),
        group_count=said.number("ssm.group_count", 0),
    )


def _layer_of_file(said: Metadata, sizes: Sizes, il: int) -> _Layer:
    kept = sizes.kept[il]
    if kept.r or kept.s:
        return _Layer(recurrent=True)
    heads, kv_heads = said.of_layer("attention.head_count", il), said.of_layer("attention.head_count_kv", il, 0)
    if not heads or not kv_heads:
        raise UnsupportedError(
            f"Layer {il} of this {sizes.arch} has no attention: llama.cpp's graph of it is not known here."
        )
    tail = "_swa" if kept.swa and said.has("attention.key_length_swa") else ""
    keys = said.number(f"attention.key_length{tail}", sizes.n_embd // heads)
    values = said.number(f"attention.value_length{tail}", sizes.n_embd // heads)
    return _Layer(heads, kv_heads, kept.k // kv_heads or keys, kept.v // kv_heads or values, kept.swa)
