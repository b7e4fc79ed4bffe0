"""What a config says: the blocks of a model and how often each repeats. No workload in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from oomph.blocks.base import Module, Part, walk
from oomph.tensor import Weight


@dataclass(frozen=True, eq=False)
class Model:
    """A model as blocks. `parts` maps a dotted path ("model.layers") to the block that stands there.

    `text_type` is the type of the language model inside a multimodal one. Multi-token-prediction layers are parts of
    kind "mtp": weighed apart, never in `params`. `assumed` are the config keys that were absent and the class defaults
    taken for them, `unplayed` what the config asks for that the tape has no rule for, `objective` what its head is
    trained for: causal-lm, masked-lm, sequence-classification, regression (a classifier of one label), embedding
    (without a head), `teacher` the model beside it that it is to learn from, `judge` the one whose decoder its models
    of value and reward have.
    """

    parts: Mapping[str, Part]
    hidden_size: int
    num_layers: int
    vocab_size: int
    tied: bool = False
    context_length: int | None = None
    name: str = ""
    model_type: str = ""
    text_type: str = ""
    dtype: str | None = None
    assumed: Mapping[str, object] | None = None
    notes: tuple[str, ...] = ()
    unplayed: tuple[str, ...] = ()
    objective: str = "causal-lm"
    teacher: Model | None = None
    judge: Model | None = None

    @property
    def decoder_type(self) -> str:
        """The type of the decoder: the model's own, or that of the language model inside it."""
        return self.text_type or self.model_type

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """Every tensor of the model, repeated ones once; MTP layers and stored buffers included."""
        return tuple(walk(Module(self.parts)))

    @cached_property
    def by_kind(self) -> dict[str, int]:
        """Parameters per kind of block, in order of appearance, MTP and buffers left out."""
        found: dict[str, int] = {}
        for weight in self.weights:
            if weight.is_param and weight.kind != "mtp":
                found[weight.kind] = found.get(weight.kind, 0) + weight.numel
        return found

    @property
    def params(self) -> int:
        """Parameters of the model as transformers builds it: no buffers, no MTP layers, tied head once."""
        return sum(self.by_kind.values())

    @cached_property
    def active_params(self) -> int:
        """Parameters one token passes through; the same as `params` unless there are experts."""
        return sum(w.active for w in self.weights if w.is_param and w.kind != "mtp")

    @property
    def embedding_params(self) -> int:
        """Parameters of the token embedding."""
        return self.by_kind.get("embedding", 0)

    @property
    def head_params(self) -> int:
        """Parameters of the output head; the embedding's when tied, 0 for a model without a head."""
        return self.by_kind.get("lm_head", 0)

    @cached_property
    def mtp_params(self) -> int:
        """Parameters of multi-token-prediction layers that the checkpoint holds beside the model."""
        return sum(w.numel for w in self.weights if w.is_param and w.kind == "mtp")

    @cached_property
    def buffer_elements(self) -> int:
        """Elements of buffers stored in the checkpoint."""
        return sum(w.numel for w in self.weights if not w.is_param)
