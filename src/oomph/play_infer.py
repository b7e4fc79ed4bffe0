"""Playing an inference job on the tape: a prefill and single tokens after it, without gradients.

Of each pass only the cache stays; its inputs die first, then its logits, as in oomph.referee.jobs.infer.
"""

from __future__ import annotations

from typing import Any

from oomph.errors import UnsupportedError, UsageError
from oomph.job import InferJob
from oomph.model import Model
from oomph.played import Played
from oomph.programs import program_of
from oomph.programs.cache import Cache, static_cache
from oomph.tape import Tape
from oomph.tape.bound import Bound, bind
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, yes
from oomph.tape.tape import Place

MOST_DECODED = 256  # each token is a pass through all layers; so many take some seconds


def infer(model: Model, job: InferJob, *, on: Place = "gpu") -> Played:
    """Play a prefill of `seq_len` tokens and `decode` single tokens after it.

    `on` says whose events are played (see tape.Place).
    """
    program = program_of(model)
    if model.objective == "seq2seq-lm":
        raise UnsupportedError("oomph plays encoder-decoders in training only.", "Trace it: oomph trace.")
    if model.objective != "causal-lm" and (job.decode or job.cache == "static"):
        raise UsageError("Only language models decode from a cache.", "Leave out --decode; say --cache none.")
    if job.decode > MOST_DECODED:
        raise UnsupportedError(
            f"oomph plays up to {MOST_DECODED} tokens one by one, not {job.decode}.",
            "The last one takes the most: read more with --context and --decode a few.",
        )
    needed, length = job.seq_len + job.decode, cache_length(job)
    if job.cache == "static" and yes(needed > length):
        raise UsageError(
            f"A static cache of {job.max_cache_len} tokens cannot hold {needed}.", "Raise --max-cache-len, or say 0."
        )
    tape = Tape(on)
    recorder, tape.kernel = tape.recorder, job.attention
    tape.experts, tape.routing, tape.training = job.experts, job.routing, False
    with tape.playing(), tape.no_grad():
        recorder.mark("parameters")
        bound = bind(model, tape, job.precision)
        buffers = [tape.note(each, "buffer") for each in program.buffers(bound)]
        played = Played(recorder, recorder.position)
        _passes(bound, program, model, job, played)
        del bound, buffers
    return played


def cache_length(job: InferJob) -> Size:
    """Return how many tokens a static cache has room for."""
    return job.seq_len + job.decode if yes(job.max_cache_len == 0) else job.max_cache_len


def _passes(bound: Bound, program: Any, model: Model, job: InferJob, played: Played) -> None:
    """Play the prefill and every single token, and note where they end."""
    recorder = bound.tape.recorder
    recorder.mark("prefill")
    cache = None
    if job.cache == "static":
        cache = static_cache(bound.tape, program.sliding_windows(bound), cache_length(job))
    cache = _pass(bound, program, model, job, job.seq_len, job.seq_len, cache)
    played.forward_end = recorder.position
    for index in range(1, job.decode + 1):
        recorder.mark(f"decode {index}")
        seen = job.seq_len + index
        cache = _pass(bound, program, model, job, seen if job.cache == "none" else 1, seen, cache)
    recorder.mark("end")
    played.backward_end = played.end = recorder.position


def _pass(
    bound: Bound, program: Any, model: Model, job: InferJob, new: Size, seen: Size, cache: Cache | None
) -> Cache | None:
    """Play `new` tokens of `seen`, return the cache. The mask, when there is one, covers all tokens seen."""
    tape = bound.tape
    tape.scope = ""
    inputs = {"input_ids": tape.note(tape.empty((job.batch, new), "int64", op="input_ids"), "input")}
    if job.padding:
        inputs["attention_mask"] = tape.note(tape.empty((job.batch, seen), "int64", op="attention_mask"), "input")
    outputs = program.causal_lm(
        bound,
        inputs["input_ids"],
        None,
        Checkpointing(),
        model.decoder_type,
        attention_mask=inputs.get("attention_mask"),
        past_key_values=cache,
        use_cache=job.cache != "none",
        logits_to_keep=job.logits_to_keep,
    )
    kept: Cache | None = outputs[-1]
    return kept
