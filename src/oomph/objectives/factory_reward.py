"""LLaMA-Factory's reward model: pairs of answers through a language model with a head of values on it, in fp32.

The head that trains stands beside the language's, which computes logits of all tokens all the same: nobody reads them,
and they get no gradient. The hidden states of all layers are held to the end of the forward pass. Source: LLaMA-Factory
0.9.5, train/rm/trainer.py; trl 0.24, models/modeling_value_head.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.blocks.base import Block, Parts
from oomph.blocks.basic import Dropout, Linear
from oomph.objectives.judged import Outputs, capturing
from oomph.objectives.passes import Passes, autocast_dtype
from oomph.ops.routing import gather, sum_over
from oomph.ops.scores import halves, logsigmoid
from oomph.ops.slices import squeeze_last
from oomph.tape.autograd import like
from oomph.tape.bound import Bound, bind
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes
from oomph.tape.sym import Sym
from oomph.tape.tape import autocast

if TYPE_CHECKING:
    from oomph.model import Model

NAME = "v_head"
RATE = 0.1  # summary_dropout_prob, of ValueHead


@dataclass(frozen=True)
class ValueHead(Block):
    """A number for each token: dropout, and a linear map with a bias."""

    hidden_size: int

    @property
    def parts(self) -> Parts:
        """Dropout and map."""
        return {"dropout": Dropout(RATE), "summary": Linear(self.hidden_size, 1, bias=True)}

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Sym:
        """Mirror ValueHead.forward."""
        output = m.dropout(hidden_states)
        output = ops.cast(output, m.summary.weight.dtype)
        values: Sym = m.summary(output)
        return values


def head(passes: Passes, model: Model) -> Bound:
    """Put a head of values beside a model: it is made in fp32, whatever the model's dtype."""
    made = replace(model, parts={NAME: ValueHead(model.hidden_size)}, tied=False)
    loaded = passes.tape.loaded
    bound: Bound = bind(made, passes.tape, "fp32")[NAME]
    passes.tape.loaded = loaded
    return bound


def inputs(passes: Passes) -> Shapes:
    """Return a batch: chosen answers, then rejected ones, each behind its prompt."""
    job = passes.job
    return dict.fromkeys(("input_ids", "attention_mask"), ((2 * job.batch, job.seq_len), "int64"))


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror PairwiseTrainer.compute_loss with its local variables."""
    _, _, values = _outputs(passes, inputs["input_ids"], inputs["attention_mask"])
    chosen_masks, rejected_masks = halves(inputs["attention_mask"])
    chosen_rewards, rejected_rewards = halves(values)
    chosen_scores = gather(chosen_rewards, _last(chosen_masks))
    rejected_scores = gather(rejected_rewards, _last(rejected_masks))
    chosen_scores, rejected_scores = squeeze_last(chosen_scores), squeeze_last(rejected_scores)
    difference = ops.cast(chosen_scores, "fp32") - ops.cast(rejected_scores, "fp32")
    loss = -ops.mean_of_all(logsigmoid(difference))
    return loss, None


def _last(masks: Sym) -> Sym:
    """Mirror masks.sum(dim=-1, keepdim=True) - 1."""
    return like(sum_over(masks, -1, keepdim=True), "int64", "sub")


def _outputs(passes: Passes, input_ids: Sym, attention_mask: Sym) -> tuple[Any, None, Sym]:
    """Run the model as accelerate wraps it: 16-bit outputs are cast to fp32."""
    with autocast(passes.tape, autocast_dtype(passes.job)):
        lm_logits, loss, value = _forward(passes, input_ids, attention_mask)
    if passes.job.fp32_outputs:
        value = ops.cast(value, "fp32")
    return lm_logits, loss, value


def _forward(passes: Passes, input_ids: Sym, attention_mask: Sym) -> tuple[Sym, None, Sym]:
    """Mirror AutoModelForCausalLMWithValueHead.forward."""
    job = passes.job
    if passes.value_head is None:
        raise AssertionError("a reward model comes with a head of values")
    with capturing(passes.tape) as hidden_states:
        _, logits, cache = passes.forward(
            passes.policy, input_ids, None, Checkpointing.of(job), passes.model.decoder_type,
            attention_mask=attention_mask, use_cache=False,
        )  # fmt: skip
    base_model_output = Outputs(logits, cache, hidden_states)
    del logits, cache, hidden_states
    last_hidden_state = base_model_output.hidden_states[-1]
    lm_logits: Any = base_model_output.logits
    value = squeeze_last(passes.value_head(last_hidden_state))
    lm_logits = ops.cast(lm_logits, "fp32")
    return lm_logits, None, value
