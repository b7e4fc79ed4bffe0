"""The passes of PPO: policy and model of its value in one, reference, reward model; all hand out hidden states.

Source: trl 1.12, experimental/ppo/ppo_trainer.py (forward, PolicyAndValueWrapper, masked_mean), experimental/utils.py
(get_reward, first_true_indices).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.blocks.basic import Classifier
from oomph.errors import UnsupportedError
from oomph.objectives.passes import Passes, autocast_dtype
from oomph.ops.elementwise import result
from oomph.ops.kernel import run
from oomph.ops.scores import compared, count
from oomph.programs import HEADS, program_of
from oomph.stream import EMPTIED
from oomph.tape.autograd import like
from oomph.tape.bound import Bound, bind
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym, new
from oomph.tape.tape import Tape, autocast
from oomph.workspaces import OUTPUTS, Buffer

if TYPE_CHECKING:
    from oomph.model import Model


@dataclass
class Outputs:
    """What a model returns, in the order in which it dies; hidden states from the last one."""

    logits: Sym | None
    past_key_values: Any
    hidden_states: list[Sym]


NAMES = ("value", "reward")


def judge(passes: Passes, policy: Model) -> Any:
    """Put models of value and reward beside a policy: their decoder with a head of one number, in the policy's dtype.

    Returns their program.
    """
    model = policy.judge or policy
    for each in (policy, model):
        if not hasattr(program_of(each), "backbone"):
            fix = "Take another --objective, or a decoder like Llama or GPT-NeoX."
            raise UnsupportedError(f"oomph cannot play {passes.job.objective} with {each.model_type} yet.", fix)
    program = program_of(model)
    passes.backbone = partial(program.backbone, model_type=model.decoder_type)
    judging = judged(model)
    for name in NAMES:
        passes.judges[name] = bind(judging, passes.tape, passes.job.weight_dtype, name)
    passes.tape.scope = ""
    return program


def judged(model: Model) -> Model:
    """Return a language model's decoder with a head of one number: a model of value, or of reward.

    Source: transformers 5.23, modeling_layers.py, GenericForSequenceClassification.
    """
    parts = {path: part for path, part in model.parts.items() if path not in HEADS}
    head = {"score": Classifier(model.hidden_size, 1, padded=True)}
    return replace(model, parts={**parts, **head}, tied=False, objective="regression")


def policy_and_value(passes: Passes, query_responses: Sym) -> tuple[Outputs, Sym]:
    """Mirror forward of a PolicyAndValueWrapper as accelerate prepares it: the policy's outputs, values [B, S, 1]."""
    tape = passes.tape
    attention_mask, position_ids, input_ids = read(query_responses)
    with autocast(tape, autocast_dtype(passes.job)):
        output = of_backbone(passes, "value", input_ids, attention_mask, position_ids, use_cache=True)
        logits: Sym = passes.judges["value"].score(output.hidden_states[-1])
        tape.recorder.mark("embedding forward")
        found = _of_policy(passes, passes.policy, input_ids, attention_mask, position_ids)
        del output
    narrow = found, logits
    if passes.job.fp32_outputs:
        found = _in_fp32(found)
        logits = ops.cast(logits, "fp32")
    del narrow  # from its end
    del attention_mask, position_ids, input_ids
    return found, logits


def reference(passes: Passes, query_responses: Sym) -> Outputs:
    """Mirror forward of the reference, or of the policy with its adapters switched off; nobody casts anything here."""
    attention_mask, position_ids, input_ids = read(query_responses)
    with passes.named("reference"), passes.without_adapters():
        bound = passes.reference or passes.policy
        found = _of_policy(passes, bound, input_ids, attention_mask, position_ids)
    del attention_mask, position_ids, input_ids
    return found


def _of_policy(passes: Passes, bound: Bound, input_ids: Sym, attention_mask: Sym, position_ids: Sym) -> Outputs:
    """Return the outputs of a language model that hands out its hidden states."""
    with capturing(passes.tape) as hidden_states:
        _, logits, cache = passes.forward(
            bound, input_ids, None, Checkpointing.of(passes.job), passes.model.decoder_type,
            attention_mask=attention_mask, position_ids=position_ids, use_cache=True,
        )  # fmt: skip
    return Outputs(logits, cache, hidden_states)


def of_backbone(
    passes: Passes, name: str, input_ids: Sym, attention_mask: Sym, position_ids: Sym, *, use_cache: bool
) -> Outputs:
    """Return the outputs of what is below the head of a model of value or reward."""
    if passes.backbone is None:
        raise AssertionError("models of value and reward come with a backbone")
    with capturing(passes.tape) as hidden_states, passes.named(name):
        asked = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": use_cache}
        cache = passes.backbone(passes.judges[name], input_ids, **asked)[1]
        del asked
    return Outputs(None, cache, hidden_states)


@contextmanager
def capturing(tape: Tape) -> Iterator[list[Sym]]:
    """Keep the hidden states of a pass inside, under the kernel of attention that it chooses."""
    before, tape.captured, kernel = tape.captured, [], tape.kernel
    tape.scope = ""
    try:
        yield tape.captured
    finally:
        tape.captured, tape.kernel = before, kernel
        tape.scope = "objective"


def _in_fp32(given: Outputs) -> Outputs:
    """Mirror accelerate's convert_to_fp32, which goes into tuples, but not into caches."""
    logits = None if given.logits is None else ops.cast(given.logits, "fp32")
    return Outputs(logits, given.past_key_values, [ops.cast(each, "fp32") for each in given.hidden_states])


def read(query_responses: Sym) -> tuple[Sym, Sym, Sym]:
    """Return what a model is given of tokens [B, S]: a mask, positions and ids without padding."""
    shape, tape = query_responses.shape, query_responses.tape
    attention_mask = compared("ne", query_responses)
    steps = (OUTPUTS, Buffer("self", shape, "int64"))
    summed: Any = run(tape, steps, lambda: new(tape, shape, "int64", op="cumsum"))
    of_mask = like(attention_mask, "int64")
    position_ids = result("sub", shape, "int64", summed, of_mask)
    del summed, of_mask
    padding = compared("bitwise_not", attention_mask)
    input_ids = ops.masked_fill(query_responses, padding)
    del padding
    return attention_mask, position_ids, input_ids


def rewards(passes: Passes, name: str, query_responses: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror get_reward: a number for every token [B, S, 1], that of each sequence's last one, and their lengths."""
    attention_mask, position_ids, input_ids = read(query_responses)
    output = of_backbone(passes, name, input_ids, attention_mask, position_ids, use_cache=False)
    reward_logits = passes.judges[name].score(output.hidden_states[-1])
    batch = query_responses.shape[0]
    length = query_responses.shape[1]
    answers = ops.slice_axis(query_responses, 1, passes.job.prompt_len, length)
    indices = first_true_indices(compared("eq", answers))
    before = like(indices, "int64", "sub")
    del indices
    sequence_lengths = like(before, "int64", "add")
    del before
    final = _of_last(reward_logits, sequence_lengths, batch)
    del attention_mask, position_ids, input_ids, output
    return reward_logits, final, sequence_lengths


def _of_last(reward_logits: Sym, sequence_lengths: Sym, batch: Any) -> Sym:
    rows = reward_logits.tape.empty((batch,), "int64", op="arange")
    made = new(reward_logits.tape, (batch, 1), reward_logits.dtype, op="index")
    del rows
    return made


def first_true_indices(bools: Sym) -> Sym:
    """Mirror first_true_indices: [B, S] to [B]; the smallest place where it is so, else S."""
    tape, (batch, length) = bools.tape, bools.shape
    others = compared("bitwise_not", bools)
    as_numbers = like(others, "int64")
    del others
    zero = like(as_numbers, "int64", "mul")
    del as_numbers
    places = tape.empty((length,), "int64", op="arange")
    zero_or_index: Any = result("add", bools.shape, "int64", zero, places)
    del zero, places
    values, indices = (tape.empty((batch,), "int64", op="min") for _ in range(2))
    del indices, bools, zero_or_index
    return values


def empty_cache(tape: Tape) -> None:
    """Mirror torch.cuda.empty_cache: what the allocator keeps goes back to the device."""
    tape.recorder.mark(EMPTIED)


def masked_mean(values: Sym, mask: Sym) -> Sym:
    """Mirror masked_mean of all: a sum of what a mask leaves by how much that is."""
    product = values * mask
    total = ops.total(product)
    del product
    number = count(mask)
    made = ops.divided(total, number)
    del total, number
    return made
