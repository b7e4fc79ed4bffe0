"""PPO's rollout: answers are generated, and scored by policy, reference, value and reward model; then advantages.

Of the generation are played the prompts' pass and the last token's, on a cache of all before it: it is the one that
takes most. The logits of all tokens generated are there twice when they are stacked, and once more when batches are
joined; then they stay to the next iteration's generation. Source: trl 1.12, experimental/ppo/ppo_trainer.py (train,
batch_generation, generate); transformers 5.23, generation/utils.py (_sample).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from oomph import ops
from oomph.objectives.judged import empty_cache, first_true_indices, masked_mean, reference, rewards
from oomph.objectives.passes import Passes, made
from oomph.ops.elementwise import add_scalar, result
from oomph.ops.scores import compared, count
from oomph.ops.selected import log_softmax_by_rows
from oomph.ops.slices import divide_slice, squeeze_last
from oomph.tape.autograd import like
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size, yes
from oomph.tape.sym import Sym, new
from oomph.tape.turns import turns

LISTS = ("responses", "postprocessed_responses", "logprobs", "ref_logprobs", "sequence_lengths", "scores", "values")
# What an iteration deletes at its end, in this order; scores and the like with the numbers that are logged.
LOGGED = ("kl", "scores", "non_score_reward")
DELETED = (
    "query_responses", "responses", "postprocessed_responses", "logprobs", "ref_logprobs", "values", "sequence_lengths",
    "contain_eos_token", "sequence_lengths_p1", "response_idxs", "padding_mask", "padding_mask_p1", "rewards",
    "actual_start", "actual_end", "advantages", "returns",
)  # fmt: skip


def roll_out(passes: Passes, shapes: Shapes) -> None:
    """Mirror the first half of an iteration of PPOTrainer.train, without gradients."""
    v, tape, job = passes.variables, passes.tape, passes.job
    tape.scope = "rollout"
    tape.recorder.mark("prompts")
    v.queries = made(tape, shapes)["input_ids"]
    v.context_length = v.queries.shape[1]
    for name in LISTS:
        setattr(v, name, [])
    generated = _batch_generation(passes, v.queries)
    tape.scope = "rollout"
    tape.recorder.mark("rollout")
    v.query_responses, v.logitss = generated
    del generated
    for begin, end in _chunks(v.queries.shape[0], job.rollout_batch):
        _score(passes, v, begin, end)
    for name in LISTS:
        setattr(v, name, ops.cat(getattr(v, name), 0))
    for name in ("logprob", "ref_logprob", "full_value", "value", "score"):
        delattr(v, name)
    empty_cache(tape)
    tape.recorder.mark("advantages")
    _advantages(v)
    empty_cache(tape)


def _chunks(rows: Size, most: int) -> list[tuple[Size, Size]]:
    """Return from which row to which each pass goes."""
    found: list[tuple[Size, Size]] = []
    begin: Size = 0
    while yes(begin < rows):
        end = begin + most if yes(begin + most < rows) else rows
        found.append((begin, end))
        begin = end
    return found


def _rows(x: Sym, begin: Size, end: Size) -> Sym:
    return ops.slice_axis(x, 0, begin, end)


def _score(passes: Passes, v: SimpleNamespace, begin: Size, end: Size) -> None:
    """Mirror what happens to some of the answers: log-probabilities of policy and reference, values, rewards."""
    length = passes.job.seq_len
    v.query = _rows(v.queries, begin, end)
    v.query_response = _rows(v.query_responses, begin, end)
    v.response = ops.slice_axis(v.query_response, 1, v.context_length, length)
    v.logits = _rows(v.logitss, begin, end)
    v.logprob = log_softmax_by_rows(v.logits, v.response)
    del v.logits
    empty_cache(passes.tape)
    v.ref_output = reference(passes, v.query_response)
    v.ref_logits = divide_slice(v.ref_output.logits, 1, v.context_length - 1, length - 1)
    v.ref_logprob = log_softmax_by_rows(v.ref_logits, v.response)
    del v.ref_output
    del v.ref_logits
    empty_cache(passes.tape)
    v.postprocessed_response = v.response
    v.postprocessed_query_response = ops.cat((v.query, v.postprocessed_response), 1)
    v.sequence_length = _before(first_true_indices(compared("eq", v.postprocessed_response)))
    v.full_value, *_ = rewards(passes, "value", v.query_response)
    v._ = _[-1]
    del _
    v.value = squeeze_last(ops.slice_axis(v.full_value, 1, v.context_length - 1, length - 1))
    reward_logits, v.score, v._ = rewards(passes, "reward", v.postprocessed_query_response)
    del reward_logits
    v.score = squeeze_last(v.score)
    for name in LISTS:
        singular = {"ref_logprobs": "ref_logprob", "logprobs": "logprob"}.get(name, name[:-1])
        getattr(v, name).append(getattr(v, singular))


def _before(indices: Sym) -> Sym:
    """Mirror indices - 1."""
    return like(indices, "int64", "sub")


def _advantages(v: SimpleNamespace) -> None:
    """Mirror masks, rewards, generalised advantage estimation from the last token to the first, and whitening."""
    responses: Sym = v.responses
    tape, (rows, length) = responses.tape, responses.shape
    v.contain_eos_token = _any(compared("eq", v.postprocessed_responses), rows)
    v.response_idxs = _repeated(tape.empty((length,), "int64", op="arange"), rows)
    v.padding_mask = compared("gt", v.response_idxs)
    v.logprobs = ops.masked_fill(v.logprobs, v.padding_mask)
    v.ref_logprobs = ops.masked_fill(v.ref_logprobs, v.padding_mask)
    v.sequence_lengths_p1 = add_scalar(v.sequence_lengths)
    v.padding_mask_p1 = compared("gt", v.response_idxs)
    v.values = ops.masked_fill(v.values, v.padding_mask_p1)
    v.logr = v.ref_logprobs - v.logprobs
    v.kl = -v.logr
    v.non_score_reward = v.kl * 1.0
    v.rewards = like(v.non_score_reward, v.non_score_reward.dtype, "clone")
    v.actual_start = tape.empty((rows,), "int64", op="arange")
    v.actual_end = _chosen(v.sequence_lengths_p1)
    _add_at(v.rewards, rows)
    v.advantages_reversed = []
    v.lastgaelam = None
    for turn in turns(tape, length, v.advantages_reversed):
        _step_back(v, turn)
    v.advantages = tape.empty((rows, length), v.lastgaelam.dtype, op="stack")
    v.returns = v.advantages + v.values
    v.advantages = _whitened(v.advantages, compared("bitwise_not", v.padding_mask))
    v.advantages = ops.masked_fill(v.advantages, v.padding_mask)


def _any(x: Sym, rows: Size) -> Sym:
    return x.tape.empty((rows,), "bool", op="any")


def _repeated(x: Sym, rows: Size) -> Sym:
    return x.tape.empty((rows, *x.shape), "int64", op="repeat")


def _chosen(lengths: Sym) -> Sym:
    """Mirror where(lengths + 1 < all, lengths + 1, lengths)."""
    within = compared("lt", lengths)
    made = result("where", lengths.shape, "int64", within, lengths)
    del within
    return made


def _add_at(rewards: Sym, rows: Size) -> None:
    """Mirror rewards[starts, ends] += scores, which makes a copy of what is there."""
    there = rewards.tape.empty((rows,), rewards.dtype, op="index")
    del there


def _step_back(v: SimpleNamespace, turn: int) -> None:
    """Mirror a token's advantage: what its reward and the next value are above its value, and later ones' share."""
    last = turn == 0  # of the answer
    v.nextvalues = None if last else _column(v.values, turn - 1)
    v.delta = _sum(_column(v.rewards, turn), None if last else v.nextvalues * 1.0) - _column(v.values, turn)
    v.lastgaelam = _sum(v.delta, None if last else v.lastgaelam * 1.0)
    v.advantages_reversed.append(v.lastgaelam)


def _column(x: Sym, turn: int) -> Sym:
    """Mirror x[:, t], t counted from the last token."""
    return squeeze_last(ops.slice_axis(x, 1, turn, turn + 1))


def _sum(a: Sym, b: Sym | None) -> Sym:
    """Return a + b, or a + 0.0."""
    return add_scalar(a) if b is None else a + b


def _whitened(values: Sym, mask: Sym) -> Sym:
    """Mirror masked_whiten: less their mean, by the root of their variance."""
    mean = masked_mean(values, mask)
    var = _variance(values, mask)
    centered: Any = values - mean
    scale = like(add_scalar(var), var.dtype, "rsqrt")
    whitened: Sym = centered * scale
    del centered, scale
    del mean, var
    return whitened


def _variance(values: Sym, mask: Sym) -> Sym:
    """Mirror masked_var with Bessel's correction."""
    mean = masked_mean(values, mask)
    centered_values = values - mean
    variance = masked_mean(ops.power(centered_values), mask)
    mask_sum = count(mask)
    compared("eq", mask_sum)
    bessel_correction = _by_one_less(mask_sum)
    variance = variance * bessel_correction
    return variance


def _by_one_less(number: Sym) -> Sym:
    less = like(number, "int64", "sub")
    made = new(number.tape, (), "fp32", op="div")
    del less
    return made


def _batch_generation(passes: Passes, queries: Sym) -> tuple[Sym, Sym]:
    """Mirror batch_generation: tokens [B, S] and the logits of all that were generated, in fp32."""
    job, tape = passes.job, passes.tape
    query_responses, logitss = [], []
    chunks = _chunks(queries.shape[0], job.rollout_batch)
    for begin, end in chunks:
        query_response, logits = _generated(passes, _rows(queries, begin, end))
        query_responses.append(query_response)
        logitss.append(logits)
        del query_response, logits
    most = chunks[0][1]
    padded = []
    for each in (query_responses, logitss):
        shape = (len(chunks) * most, *each[0].shape[1:])
        padded.append(tape.empty(shape, each[0].dtype, op="full"))
    rows = queries.shape[0]
    return _rows(padded[0], 0, rows), _rows(padded[1], 0, rows)


def _generated(passes: Passes, queries: Sym) -> tuple[Sym, Sym]:
    """Mirror generate: a prompt's pass, one token after the other, and their logits stacked beside what they were."""
    job, tape = passes.job, passes.tape
    rows, new_tokens = queries.shape[0], job.seq_len - job.prompt_len
    attention_mask = compared("ne", queries)
    input_ids = ops.masked_fill(queries, compared("bitwise_not", attention_mask))
    cache = _pass(passes, "generation", input_ids, attention_mask, None)
    if yes(new_tokens > 1):
        cache = _of_length(cache, job.seq_len - 2)  # the last token is not in it
    scores: list[Sym] = []
    for _ in turns(tape, new_tokens, scores):
        scores += [_scores(passes, rows)]
    if yes(new_tokens > 1):
        token = tape.empty((rows, 1), "int64", op="multinomial")
        mask = tape.empty((rows, job.seq_len - 1), "bool", op="cat")
        cache = _pass(passes, "token", token, mask, cache)
        del token, mask
    sequences = tape.empty((rows, job.seq_len), "int64", op="cat")
    logits = tape.empty((rows, new_tokens, passes.model.vocab_size), "fp32", op="stack")
    answers = tape.empty((rows, job.seq_len), "int64", op="cat")
    del attention_mask, input_ids, cache, scores, sequences
    return answers, logits


def _scores(passes: Passes, rows: Size) -> Sym:
    """Return the logits of one token, divided by the temperature."""
    return passes.tape.empty((rows, passes.model.vocab_size), "fp32", op="div")


def _pass(passes: Passes, work: str, input_ids: Sym, attention_mask: Sym, cache: Any) -> Any:
    """Play a pass of generate, of which the cache stays."""
    tape, kernel = passes.tape, passes.tape.kernel
    tape.scope = ""
    with passes.named(work):
        _, logits, cache = passes.forward(
            passes.policy, input_ids, None, Checkpointing(), passes.model.decoder_type, attention_mask=attention_mask,
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
    tape.kernel, tape.scope = kernel, "rollout"
    tape.recorder.mark("sampling" if work == "generation" else "joining")
    wide = ops.cast(ops.slice_axis(logits, 1, 0, 1), "fp32")
    del logits, wide
    return cache


def _of_length(cache: Any, length: Size) -> Any:
    """Return a cache of the same layers that holds so many tokens; the one that is given is gone then."""
    for layer in cache.layers:
        layer.keys = _with_tokens(layer.keys, length)
        layer.values = _with_tokens(layer.values, length)
    return cache


def _with_tokens(states: Sym, length: Size) -> Sym:
    rows, heads, _, size = states.shape
    return states.tape.empty((rows, heads, length, size), states.dtype, op="cat")


def forget(v: SimpleNamespace) -> None:
    """Mirror what an iteration deletes at its end: the logits of what was generated are not among it."""
    for name in (*LOGGED, *DELETED):
        delattr(v, name)
