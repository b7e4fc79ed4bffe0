"""LlamaForCausalLM.forward and its likes with their local variables: the frame around the layers of most decoders.

Embedding, masks, rotary tables, layers, norm, head, loss; what differs from family to family is in frames.py and in the
blocks. Source: transformers 5.23, models/llama/modeling_llama.py and those of the types in frames.py. Where masks are
kept in a mapping (Qwen, Gemma), the dict of their arguments is held to the end of the model's forward, which keeps the
embeddings and position ids alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from oomph import ops
from oomph.blocks.attention import Attention
from oomph.blocks.latent_attention import LatentAttention
from oomph.errors import UnsupportedError
from oomph.families.layer_types import FULL, SLIDING
from oomph.job import TrainJob
from oomph.job_words import FLASH_ATTN
from oomph.ops.rotary_kinds import FP32_TABLES
from oomph.programs.cache import BLOCKS, Cache, dynamic_cache
from oomph.programs.classify import classified
from oomph.programs.frame import project
from oomph.programs.frames import FRAMES, Frame
from oomph.programs.layers import Tables
from oomph.programs.loss import kept
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, number, yes
from oomph.tape.sym import Sym

MTP_LAYERS = "model.mtp_layers."
Masks = dict["Size | None", "Sym | None"]  # by the window of the layers that take them


def buffers(m: Bound) -> list[Sym]:
    """Return what is no parameter and not stored but on the device: inv_freq and original_inv_freq, Gemma's factor."""
    return model_buffers(m.model)


def model_buffers(m: Bound) -> list[Sym]:
    """Return the buffers of a LlamaModel and its likes."""
    tables = first_of_kinds(m) if has_own_tables(attention(m)) else {None: attention(m)}
    sizes = [rotary_size(block) // 2 for block in tables.values() for _ in range(2)]
    found = [m.tape.empty((size,), "fp32", op="inv_freq") for size in sizes]
    table = m.embed_tokens
    if table.scaled:
        table.parts["embed_scale"] = m.tape.empty((), m.tape.loaded, op="embed_scale")
        found.append(table.embed_scale)
    return found


def model(
    m: Bound,
    input_ids: Sym | None,
    checkpointing: Checkpointing,
    frame: Frame,
    attention_mask: Sym | Masks | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror LlamaModel.forward: the last hidden state [B, S, H] and the cache.

    A multimodal class hands it embeddings instead of ids, and masks by window where it has made them itself.
    Locals die in the order in which a frame lists them, arguments first: hence position_ids before inputs_embeds.
    """
    tape = m.tape
    windows = windows_of(m)
    if use_cache and past_key_values is None and frame.cache_first:
        past_key_values = dynamic_cache(tape, kept_by(m))
    if inputs_embeds is None:
        inputs_embeds = m.embed_tokens(input_ids)
    if frame.scaled and not frame.scaled_late:
        inputs_embeds = inputs_embeds * 1.0
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(tape, kept_by(m))
    packed = position_ids
    if position_ids is None:
        position_ids = ops.unary(tape.empty((inputs_embeds.shape[1],), "int64", op="arange"), "add")
        position_ids = ops.unsqueeze(position_ids, 0)
    if isinstance(attention_mask, dict):
        causal_masks = attention_mask
    else:
        causal_masks = {
            window: ops.causal_mask(
                inputs_embeds, attention_mask, past_key_values, window, packed, looks=frame.packs, chunked=frame.chunked
            )
            for window in mask_order(windows, frame)
        }
    if frame.masks in ("both", "full first") and causal_masks is not attention_mask:
        mask_kwargs = {"inputs_embeds": inputs_embeds}
        if frame.packs:
            mask_kwargs["position_ids"] = position_ids
    if frame.scaled_late:
        inputs_embeds = inputs_embeds * 1.0
    hidden_states: Sym = inputs_embeds
    if m.embed_tokens.times:
        hidden_states = hidden_states * 1.0
    if "embedding_dropout" in m.parts:
        hidden_states = m.embedding_dropout(hidden_states)
    position_embeddings = _tables(m, frame, hidden_states, position_ids, windows)
    if frame.normed_first:
        hidden_states = m.norm(hidden_states)

    tape.hand_out(hidden_states)
    for index, layer in enumerate(m.layers):
        tape.begin_layer(index, layer.path)
        kind = windows[index]
        if checkpointing.takes(index):
            call = Call(layer, frame, position_embeddings[kind], causal_masks[kind], position_ids)
            hidden_states = checkpointing(tape, call, hidden_states)
            del call
        else:
            hidden_states = frame.layer(
                layer, frame, hidden_states, position_embeddings[kind], causal_masks[kind], past_key_values, index
            )
        tape.hand_out(hidden_states)
    if frame.captured:
        mask_kwargs_cell = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841
    tape.end_layers()
    # Position ids that came along with the tables die where the frame's own do.
    position_embeddings = {
        kind: made[:2] if isinstance(made, tuple) else made for kind, made in position_embeddings.items()
    }
    hidden_states = m.norm(hidden_states)
    return hidden_states, past_key_values


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: no sinks, where flash-attn takes them; no indexer's, which
    hand none back; no layers that predict further tokens, which MiMo's class makes and never calls.
    """
    parameters = [one for one in parameters if ".indexer." not in one.made_for]
    if "mtp_layers" in m.model.parts:
        parameters = [one for one in parameters if not one.made_for.startswith(MTP_LAYERS)]
    if m.tape.kernel not in FLASH_ATTN:
        return parameters
    return [one for one in parameters if not one.made_for.endswith(".self_attn.sinks")]


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return the window of every layer, None where attention is full."""
    return kept_by(m.model)


def windows_of(m: Bound) -> list[Size | None]:
    """Return the window of every layer of a LlamaModel and its likes."""
    return [layer.self_attn.sliding_window for layer in m.layers]


def kept_by(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: a window, None all of it, or an indexer's keys too."""
    return [BLOCKS if "indexer" in layer.self_attn.parts else layer.self_attn.sliding_window for layer in m.layers]


def mask_order(windows: Sequence[Size | None], frame: Frame) -> list[Size | None]:
    """Return the windows for which masks are made, in order: mappings of masks begin with the full one."""
    distinct = list(dict.fromkeys(windows))
    if frame.masks == "one":
        return distinct
    if frame.masks == "as a set":
        return as_a_set(distinct)
    if frame.masks == "both" and distinct == [None]:
        return [None, 0]  # the mask of a window is made even where no layer has one
    return [None, *(window for window in distinct if window is not None)]


def as_a_set(windows: Sequence[Size | None]) -> list[Size | None]:
    """Return the distinct windows as a set of the names of layers with them is gone through.

    That order differs from process to process.
    """
    names = {window: FULL if window is None else SLIDING for window in windows}
    order = list({names[window] for window in windows})
    return sorted(names, key=lambda window: order.index(names[window]))


def _tables(
    m: Bound, frame: Frame, hidden_states: Sym, position_ids: Sym, windows: Sequence[Size | None]
) -> dict[Size, Any]:
    """Return cos and sin for the layers of each window, made once for all or for each kind."""
    first = attention(m)
    size = rotary_size(first)
    if isinstance(first, Attention) and first.longrope:
        ops.choose_frequencies(position_ids, size, partial(leave_frequencies, m))
    if isinstance(first, Attention) and first.dynamic is not None:
        if not yes(position_ids.shape[1] <= first.dynamic):
            raise UnsupportedError(
                f"Frequencies of a dynamic rotary embedding change beyond {number(first.dynamic)} tokens.",
                "Ask for no more of them, or trace the real code: oomph trace.",
            )
        ops.look_at_length(position_ids)
    if frame.tables == "anew":
        longrope = isinstance(first, Attention) and first.longrope
        return dict.fromkeys(windows, ops.rotary_tables_anew(hidden_states, position_ids, size, longrope))
    if frame.tables:
        made = ops.complex_tables if frame.tables == "complex" else ops.half_tables
        return dict.fromkeys(windows, made(hidden_states, position_ids, size))
    dtype = "fp32" if isinstance(first, Attention) and first.rotary in FP32_TABLES else None
    if not has_own_tables(first):
        tables = ops.rotary_tables(hidden_states, position_ids, size, dtype)
        told = first.position_scaled or BLOCKS in kept_by(m)
        return dict.fromkeys(windows, (*tables, position_ids) if told else tables)
    sizes = {window: rotary_size(block) for window, block in first_of_kinds(m).items()}
    return {
        window: ops.rotary_tables(hidden_states, position_ids, sizes[window], dtype) for window in as_a_set(windows)
    }


def leave_behind(m: Bound, job: TrainJob) -> None:
    """Allocate what an earlier forward pass left: LongRoPE's frequencies."""
    first = attention(m.model)
    if isinstance(first, Attention) and first.longrope:
        leave_frequencies(m.model)


def leave_frequencies(m: Bound) -> None:
    """Make LongRoPE's frequencies for long sequences, if that has not been done."""
    if "long_inv_freq" not in m.parts:
        made = ops.longrope_frequencies(m.tape, rotary_size(attention(m)))
        m.parts["long_inv_freq"] = m.tape.note(made, "kept by a module")


class Call:
    """partial(layer.__call__, **kwargs) as transformers hands it to checkpoint: it keeps the arguments alive.

    They die in the order in which the model's forward spells them.
    """

    def __init__(self, layer: Bound, frame: Frame, tables: Tables, mask: Sym | None, ids: Sym | None) -> None:
        self.layer = layer
        self.frame = frame
        rotary, positions = {"position_embeddings": tables}, {"position_ids": ids}
        # A dict, not attributes: instances of a class share the order of their attributes.
        self.arguments: dict[str, Any] = dict(rotary) if frame.rotary_first else {}
        self.arguments["attention_mask"] = mask
        self.arguments |= {**positions, **rotary} if frame.ids_first else {**rotary, **positions}

    def __call__(self, hidden_states: Sym) -> Sym:
        """Run the layer."""
        arguments, frame = self.arguments, self.frame
        return frame.layer(
            self.layer, frame, hidden_states, arguments["position_embeddings"], arguments["attention_mask"]
        )


def attention(m: Bound) -> Attention | LatentAttention:
    """Return the attention of the first layer."""
    block = next(iter(m.layers)).self_attn.block
    if not isinstance(block, (Attention, LatentAttention)):
        raise TypeError("the layers of this frame hold plain or latent attention")
    return block


def first_of_kinds(m: Bound) -> dict[Size | None, Attention]:
    """Return the first attention with each window."""
    found: dict[Size | None, Attention] = {}
    for layer in m.layers:
        found.setdefault(layer.self_attn.sliding_window, layer.self_attn.block)
    return found


def has_own_tables(block: Attention | LatentAttention) -> bool:
    """Tell whether sliding and full layers have rotary tables of their own."""
    return isinstance(block, Attention) and block.own_tables


def rotary_size(block: Attention | LatentAttention) -> Size:
    """Return the width of the rotary tables."""
    size: Size
    if isinstance(block, LatentAttention):
        size = block.qk_rope_head_dim
    else:
        size = block.head_dim if block.rotary_dim is None else block.rotary_dim
    if yes(size % 2 == 1) or yes(size == 0):
        raise UnsupportedError("A rotary embedding turns pairs of channels.", "Check partial_rotary_factor.")
    return size


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool = False,
    logits_to_keep: Size = 0,
) -> tuple[Sym | None, Sym | None, Cache | None]:
    """Mirror LlamaForCausalLM.forward: loss, logits and cache."""
    frame = FRAMES[model_type]
    if not frame.sdpa and m.tape.kernel not in FLASH_ATTN:
        m.tape.kernel = "eager"
    hidden_states, past_key_values = model(
        m.model, input_ids, checkpointing, frame, attention_mask, position_ids, past_key_values, use_cache=use_cache
    )
    m.tape.hand_out_last(hidden_states)
    if "score" in m.parts:
        states = [hidden_states]
        del hidden_states  # a local of the frame that goes on
        return classified(m, states, input_ids, labels, past_key_values)
    loss, logits = scored(m.lm_head, hidden_states, m.model.embed_tokens.weight, labels, logits_to_keep)
    return loss, logits, past_key_values


def backbone(
    m: Bound,
    input_ids: Sym,
    model_type: str,
    attention_mask: Sym,
    position_ids: Sym | None,
    use_cache: bool,
    checkpointing: Checkpointing | None = None,
) -> tuple[Sym, Cache | None]:
    """Mirror the forward of what is below a head: the last hidden state and the cache."""
    frame = FRAMES[model_type]
    if not frame.sdpa:
        m.tape.kernel = "eager"
    found = model(
        m.model, input_ids, checkpointing or Checkpointing(), frame, attention_mask, position_ids, use_cache=use_cache
    )
    m.tape.hand_out_last(found[0])
    return found


def scored(
    lm_head: Bound, hidden_states: Sym, table: Sym, labels: Sym | None, logits_to_keep: Size
) -> tuple[Sym | None, Sym | None]:
    """Mirror what FooForCausalLM.forward does with the last hidden state: loss and logits."""
    hidden_states = kept(hidden_states, logits_to_keep)
    head = lm_head.parts.get("base_layer", lm_head)  # beside which an adapter may stand
    lm_head.tape.head = "softcap" if head.softcap else "scaled" if head.scaled else ""
    return project(lm_head, hidden_states, table, labels)
