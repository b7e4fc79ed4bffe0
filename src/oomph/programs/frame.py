"""What the frames of decoder families have in common: positions, the call of a layer, the language head on top."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from operator import getitem
from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError, UsageError
from oomph.methods.qat import HeadQat
from oomph.programs.cache import Cache
from oomph.programs.classify import classified
from oomph.programs.loss import adapted_head_and_loss, head_and_loss, kept, rounded_head_and_loss
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, number, yes
from oomph.tape.sym import Sym

Body = Callable[..., "tuple[Sym, Cache | None]"]


def no_buffers(m: Bound) -> list[Sym]:
    """Return what is on the device beside the parameters: nothing."""
    return []


def at(m: Bound, path: str) -> Any:
    """Return the part at a dotted path."""
    return reduce(getitem, path.split("."), m)


def full_attention(layers: str) -> Callable[[Bound], list[Size | None]]:
    """Return a program's `sliding_windows`: no layer has one."""
    return lambda m: [None] * len(at(m, layers).stacked)


def counted_positions(inputs: Sym) -> Sym:
    """Mirror position_ids = torch.arange(length) + past_seen_tokens, then unsqueeze(0): int64 [1, S]."""
    position_ids = ops.unary(inputs.tape.empty((inputs.shape[1],), "int64", op="arange"), "add")
    return ops.unsqueeze(position_ids, 0)


def call(
    layer: Bound,
    index: int,
    block: Callable[..., Any],
    checkpointing: Checkpointing,
    past_key_values: Any,
    hidden_states: Sym,
    *arguments: Any,
    **options: Any,
) -> Any:
    """Call a decoder layer, or checkpoint it: `arguments` are then saved, `options` kept alive in a partial.

    `block(layer, hidden_states, *arguments, **options, past_key_values, index)` is its forward.
    """
    if index == 0:
        layer.tape.hand_out(hidden_states)
    layer.tape.begin_layer(index, layer.path)
    found = run(layer, index, block, checkpointing, past_key_values, hidden_states, *arguments, **options)
    if isinstance(found, Sym):
        layer.tape.hand_out(found)
    return found


def run(
    layer: Bound,
    index: int,
    block: Callable[..., Any],
    checkpointing: Checkpointing,
    past_key_values: Any,
    hidden_states: Sym,
    *arguments: Any,
    **options: Any,
) -> Any:
    """Do what `call` does without a mark that a decoder's layer begins: an encoder has layers of its own."""
    if checkpointing.takes(index):
        return checkpointing(layer.tape, partial(block, layer, **options), hidden_states, *arguments)
    return block(layer, hidden_states, *arguments, **options, past_key_values=past_key_values, index=index)


def language_model(body: Body, base: str, embed: str, head: str = "lm_head") -> Callable[..., Any]:
    """Return FooForCausalLM.forward of a FooModel.forward: the model at `base`, its embedding, the head's path."""

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
        hidden_states, past_key_values = body(
            m[base],
            input_ids,
            checkpointing,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        m.tape.hand_out_last(hidden_states)
        if "score" in m.parts:
            states = [hidden_states]
            del hidden_states  # a local of the frame that goes on
            return classified(m, states, input_ids, labels, past_key_values)
        hidden_states = kept(hidden_states, logits_to_keep)
        loss, logits = project(m[head], hidden_states, at(m[base], embed).weight, labels)
        return loss, logits, past_key_values

    return causal_lm


def headless(body: Body, base: str) -> Callable[..., Any]:
    """Return the forward of a FooModel, at `base` of a class with a head, as a caller of the model itself runs it."""

    def backbone(
        m: Bound,
        input_ids: Sym,
        model_type: str,
        attention_mask: Sym,
        position_ids: Sym | None,
        use_cache: bool,
        checkpointing: Checkpointing | None = None,
    ) -> tuple[Sym, Cache | None]:
        found = body(
            m[base], input_ids, checkpointing or Checkpointing(), attention_mask=attention_mask,
            position_ids=position_ids, use_cache=use_cache,
        )  # fmt: skip
        m.tape.hand_out_last(found[0])
        return found

    return backbone


def project(head: Bound, hidden_states: Sym, table: Sym, labels: Sym | None) -> tuple[Sym | None, Sym | None]:
    """Return loss and logits, with the embedding's `table` as the head's weight where it is tied to it."""
    if "base_layer" in head.parts:
        return adapted_head_and_loss(head, hidden_states, labels)
    weight, bias = head.parts["weight"], head.parts["bias"]
    weight = table if weight is None else weight
    if isinstance(head.block, HeadQat):
        return rounded_head_and_loss(head, hidden_states, weight, labels)
    return head_and_loss(hidden_states, weight, labels, bias)


def seen_length(past_key_values: Cache) -> Size:
    """Return how many tokens a cache holds, for classes that make a tensor of that length."""
    seen = past_key_values.seq_length()
    if isinstance(seen, Sym):  # on the device
        raise UnsupportedError("oomph cannot play decoding from a static cache here yet.", "Say --cache dynamic.")
    return seen


def refuse_positions(position_ids: Sym | None) -> None:
    """Refuse packing where a class takes no position ids."""
    if position_ids is not None:
        raise UnsupportedError("This class takes no position ids, so no packed sequences.", "Leave out packing.")


def check_positions(table: Bound, length: Size) -> None:
    """Refuse sequences longer than the table of learned positions."""
    check_length(table.rows, length)


def check_length(positions: Size, length: Size) -> None:
    """Refuse sequences longer than what a model has positions for: the real class fails on them too."""
    if not yes(length <= positions):
        raise UsageError(
            f"The model has {number(positions)} positions, too few for {number(length)} tokens.",
            f"Ask for at most {number(positions)}: --seq, or --context of `oomph serve`.",
        )
