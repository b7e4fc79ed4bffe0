"""The frame of decoders in which some layers attend and the others keep a state, with its local variables.

Source: transformers 5.23, FooModel.forward of models/lfm2, models/qwen3_next, models/qwen3_5, models/olmo_hybrid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from oomph import ops
from oomph.programs.cache import LINEAR, Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

ORDER = ("position_embeddings", "attention_mask", "position_ids")


def no_tables(hidden_states: Sym, position_ids: Sym, size: Size) -> None:
    """Make no rotary tables: attention that knows no positions."""


@dataclass(frozen=True)
class Hybrid:
    """How such a model is put together: the forward of its `block`, the name of the `mixer` that keeps a state.

    `tables` makes those of the rotary embedding, `order` is that in which a layer is handed its arguments, `norm` the
    name of the last one. `tables_for_all`: layers that do not attend are handed the tables too.
    """

    block: Callable[..., Any]
    mixer: str
    tables: Callable[[Sym, Sym, Size], Any] = ops.rotary_tables
    order: Sequence[str] = ORDER
    norm: str = "norm"
    tables_for_all: bool = True

    def model(
        self,
        m: Bound,
        input_ids: Sym | None,
        checkpointing: Checkpointing,
        attention_mask: Sym | None = None,
        position_ids: Sym | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Sym | None = None,
        use_cache: bool = False,
    ) -> tuple[Sym, Cache | None]:
        """Mirror FooModel.forward; position_ids [B, S] of a caller that packs, or [3, B, S] of images, of which neither
        masks nor layers are told.
        """
        if inputs_embeds is None:
            inputs_embeds = m.embed_tokens(input_ids)
        kinds = self.kinds(m)
        if use_cache and past_key_values is None:
            past_key_values = dynamic_cache(m.tape, kinds)
        seen = position_ids is not None and len(position_ids.shape) == len(("time", "height", "width"))
        packed = None if seen else position_ids
        if position_ids is None:
            position_ids = counted_positions(inputs_embeds)
        text_position_ids = None if seen else position_ids
        causal_mask_mapping: dict[Size, Sym | None] = {}
        mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": text_position_ids}  # noqa: F841  lives to the end
        causal_mask_mapping |= {
            None: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed, looks=not seen),
            LINEAR: ops.recurrent_mask(inputs_embeds, attention_mask),
        }
        hidden_states: Sym = inputs_embeds
        tables = partial(ops.rotary_tables_3d, interleaved=True) if seen else self.tables
        position_embeddings = tables(hidden_states, position_ids, self.rotary_size(m))
        for index, layer in enumerate(m.layers):
            given = {
                "attention_mask": causal_mask_mapping[kinds[index]],
                "position_embeddings": position_embeddings if self.tables_for_all or kinds[index] is None else None,
                "position_ids": text_position_ids,
            }
            hidden_states = call(
                layer, index, self.block, checkpointing, past_key_values, hidden_states,
                **{name: given.pop(name) for name in self.order},
            )  # fmt: skip
        m.tape.end_layers()
        hidden_states = m[self.norm](hidden_states)
        return hidden_states, past_key_values

    def kinds(self, m: Bound) -> list[Size | None]:
        """Return what each layer keeps of its past: keys and values, or states."""
        return [LINEAR if self.mixer in layer.parts else None for layer in m.layers]

    def rotary_size(self, m: Bound) -> Size:
        """Return the width of the rotary tables."""
        attention = next(layer.self_attn for layer in m.layers if "self_attn" in layer.parts)
        return attention.head_dim if attention.rotary_dim is None else attention.rotary_dim

    def sliding_windows(self, m: Bound) -> list[Size | None]:
        """Return a program's `sliding_windows`."""
        return self.kinds(m.model)

    def buffers(self, m: Bound) -> list[Sym]:
        """Return the frequencies of the rotary embedding, which are kept twice."""
        return [] if self.tables is no_tables else ops.rotary_buffers(m.tape, self.rotary_size(m.model))
