"""The end of a causal language model in training: the output projection and the loss, one file per way of computing it.

A file holds `end(hidden_states, weight, labels, bias)`: hidden states [B, S, H], the projection's weight [V, H], labels
[B, S] and bias [V] to the loss, None where the caller makes one of the logits, and the logits that the model returns,
None where they never exist as a whole.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oomph.errors import UnsupportedError

if TYPE_CHECKING:
    from oomph.tape.sym import Sym

LOSSES: dict[str, str] = {
    "hf": "hf",
    "hf-fp32": "hf_fp32",
    "hf-4.46": "hf_4_46",
    "hf-4.45": "hf_4_45",
    "shifted": "shifted",
    "mean": "mean",
    "fused": "fused",
    "fused-4.45": "fused_4_45",
    "fused-shifted": "fused_shifted",
    "liger": "liger",
    "liger-fms": "liger_fms",
    "cut": "cut",
    "torchtune": "torchtune",
    "litgpt": "litgpt",
    "fused-head": "fused_head",
    "logits": "plain_logits",
    "chunked-nll": "chunked_nll",
    "unsloth": "unsloth",
    "unsloth-2024": "unsloth_2024",
}
WITHOUT_BIAS = frozenset(
    {"liger", "liger-fms", "cut", "fused-head", "chunked-nll", "unsloth"}
)  # played for heads without one
WITHOUT_EXPERTS = frozenset({"fused-head", "chunked-nll"})  # to which TRL adds the loss of a mixture's router
OF_PLAIN_HEADS = frozenset(
    {"liger", "liger-fms", "cut", "torchtune", "litgpt", "chunked-nll"}
)  # and not of logits that are scaled
OF_LOGITS = frozenset({"hf", "shifted"})  # what a program can compute that makes its logits itself


def loss_file(name: str) -> Any:
    """Return the file of a loss."""
    return import_module(f"oomph.losses.{LOSSES[name]}")


def end_of_model(
    hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None
) -> tuple[Sym | None, Sym | None]:
    """Return the loss of the job that is played, and the logits, if there are any."""
    if bias is not None and hidden_states.tape.loss in WITHOUT_BIAS:
        check_loss(hidden_states.tape.loss, "a head with a bias")
    if hidden_states.tape.head and hidden_states.tape.loss in OF_PLAIN_HEADS:
        check_loss(hidden_states.tape.loss, "a head whose logits are scaled")
    found: tuple[Sym | None, Sym | None] = loss_file(hidden_states.tape.loss).end(hidden_states, weight, labels, bias)
    return found


def check_loss(name: str, model_type: str) -> None:
    """Refuse a loss for a program that makes its logits itself and hands them to transformers' own."""
    if name not in OF_LOGITS:
        raise UnsupportedError(
            f"oomph cannot play the loss {name!r} with {model_type or 'this model'} yet.",
            "Take the loss hf, or trace the real code: oomph trace.",
        )
