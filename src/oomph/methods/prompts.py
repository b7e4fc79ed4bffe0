"""Prompt tuning and p-tuning: vectors that train stand before the embedded tokens; the model itself is frozen.

Effect: `virtual_tokens` vectors as wide as the model, in fp32; with p-tuning three linear maps make them, as wide as
the model too. Cost: every sequence is longer by so many tokens, all through the model and its loss; gradients go
through all layers. Source: PEFT 0.21, peft_model.py, PeftModelForCausalLM.forward and get_prompt;
tuners/prompt_tuning/model.py, PromptEmbedding; tuners/p_tuning/model.py, PromptEncoder with an MLP, as by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import Block, Module, Parts
from oomph.blocks.basic import Embedding, Linear
from oomph.errors import UnsupportedError, UsageError
from oomph.methods.saved import frozen
from oomph.methods.targets import inner, typed
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sizes import Size
    from oomph.tape.sym import Sym

PLAYED = ("gpt2", "llama", "mistral", "qwen2", "qwen3")  # types that were held against PEFT
ENCODER = "prompt_encoder"
DTYPE = "fp32"  # of what makes prompts, whatever the model's is


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model with a prompt encoder beside it, all else frozen; raises for what is not played."""
    check_prompts(model, job)
    _, table = _table(model)
    encoder = PromptMlp if job.method == "p-tuning" else PromptEmbedding
    return replace(model, parts={**frozen(model).parts, ENCODER: encoder(job.virtual_tokens, table.size)})


def check_prompts(model: Model, job: TrainJob) -> None:
    """Refuse what virtual tokens were not held against PEFT with."""
    if model.model_type not in PLAYED or model.objective != "causal-lm":
        raise UnsupportedError(
            f"oomph plays no {job.method} of {model.model_type or 'this model'} yet.",
            f"It does for language models of {', '.join(PLAYED)}; or take --method lora.",
        )
    if job.packs:
        raise UsageError(
            "PEFT ignores position ids where prompts stand before tokens.", "Leave out --packing, --padding-free."
        )
    for wrong, what, fix in (
        (job.adapter_dtype != "fp32", "in the base's dtype", "PEFT keeps prompts in fp32: leave --adapter-dtype out."),
        (job.quantization != "none", "on a quantised base", "Leave --quantization out, or take --method qlora."),
        (job.objective != "sft", f"with {job.objective}", "Take --method lora."),
        (job.loss != "hf", f"with the loss {job.loss}", "Leave --loss out."),
        (job.kernels != "torch", f"with the kernels {job.kernels}", "Leave --kernels out."),
        (bool(job.modules_to_save), "with copies of modules", "Leave --modules-to-save out."),
    ):
        if wrong:
            raise UnsupportedError(f"oomph plays no {job.method} {what}.", fix)


def _table(model: Model) -> tuple[str, Embedding]:
    """Return the table of tokens and where it is."""
    tables = ((path, inner(part)) for path, part in model.parts.items())
    return next((path, part) for path, part in tables if isinstance(part, Embedding))


@dataclass(frozen=True, eq=False)
class PromptEmbedding(Block):
    """A table of virtual tokens [tokens, size]."""

    tokens: Size
    size: Size

    @property
    def parts(self) -> Parts:
        """The table."""
        return {"embedding": Tensor((self.tokens, self.size), "embedding", DTYPE)}

    @staticmethod
    def program(m: Bound, batch: Size) -> Sym:
        """Mirror PromptEmbedding.forward on one row of indices: [1, tokens, size]."""
        return looked_up(m, batch)


@dataclass(frozen=True, eq=False)
class PromptMlp(PromptEmbedding):
    """A table of virtual tokens and three linear maps with ReLU between them."""

    @property
    def parts(self) -> Parts:
        """The table and the maps."""
        linear = typed(Linear(self.size, self.size, bias=True), dtype=DTYPE)
        return {**super().parts, "mlp_head": Module({"0": linear, "2": linear, "4": linear})}

    @staticmethod
    def program(m: Bound, batch: Size) -> Sym:
        """Mirror PromptEncoder.forward on one row of indices: [1, tokens, size]."""
        from oomph import ops

        input_embeds = looked_up(m, batch)
        first, second, third = m.mlp_head.parts.values()
        output_embeds: Sym = ops.activate("relu", first(input_embeds))
        output_embeds = ops.activate("relu", second(output_embeds))
        output_embeds = third(output_embeds)
        return output_embeds


def looked_up(m: Bound, batch: Size) -> Sym:
    """Return the rows of the table once; of the indices for all sequences one row is taken, which keeps all alive."""
    from oomph import ops

    ids = indices(m, batch)
    if ids is None:
        return ops.embedding_at(m.embedding, (1, m.tokens))
    return ops.embedding(m.embedding, ops.slice_axis(ids, 0, 0, 1))


def indices(m: Bound, batch: Size) -> Sym | None:
    """Return the indices of virtual tokens [batch, tokens] int64, copied to a GPU from the host; None elsewhere."""
    return m.tape.empty((batch, m.tokens), "int64", op="to") if m.tape.on == "gpu" else None


def forward_around(causal_lm: Callable[..., Any], model: Model) -> Callable[..., Any]:
    """Return PeftModelForCausalLM.forward around a model's."""
    path, _ = _table(model)

    def forward(
        m: Bound, input_ids: Sym, labels: Sym, checkpointing: Any, model_type: str,
        attention_mask: Sym | None = None, position_ids: Sym | None = None, use_cache: bool = False,
    ) -> Any:  # fmt: skip
        from oomph import ops
        from oomph.programs.frame import at

        tape, encoder = m.tape, m[ENCODER]
        batch, ahead = input_ids.shape[0], (input_ids.shape[0], encoder.tokens)
        inputs_embeds: Sym | None = None
        kwargs: dict[str, Any] = {}
        if attention_mask is not None:
            prefix_attention_mask = tape.empty(ahead, "fp32", op="ones")
            attention_mask = ops.cat((prefix_attention_mask, attention_mask), 1, "fp32")
        kwargs["attention_mask"] = attention_mask
        inputs_embeds = at(m, path)(input_ids)
        prefix_labels = tape.empty(ahead, "int64", op="full")
        kwargs["labels"] = ops.cat((prefix_labels, labels), 1)
        prompts = get_prompt(encoder, batch)
        prompts = ops.cast(prompts, inputs_embeds.dtype)
        inputs_embeds = ops.cat((prompts, inputs_embeds), 1)
        return causal_lm(
            m, inputs_embeds, kwargs["labels"], checkpointing, model_type,
            attention_mask=kwargs["attention_mask"], use_cache=use_cache,
        )  # fmt: skip

    return forward


def get_prompt(encoder: Bound, batch: Size) -> Sym:
    """Mirror PeftModel.get_prompt: the encoder's vectors once for each sequence."""
    from oomph import ops

    prompts = encoder(batch)
    return ops.repeat_first(prompts, batch)
