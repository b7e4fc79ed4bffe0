"""Playing an inference job on the tape: a prefill and single tokens after it, without gradients.

Of each pass only the cache stays; its inputs die first, then its logits, as in oomph.referee.jobs.infer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.errors import UsageError
from oomph.job import InferJob
from oomph.model import Model
from oomph.play import program_of
from oomph.programs.cache import Cache, static_cache
from oomph.tape import Recorder, Tape
from oomph.tape.bound import Bound, bind
from oomph.tape.sizes import Size, yes


@dataclass
class Inferred:
    """An inference job on the tape. Bytes count every allocation rounded to 512 B.

    `resident` are parameters and buffers; `prefill_end` and `end` are alive after the prefill and after the last
    token: what is above `resident` is cache. `start` is the position of the job's first event in the stream.
    """

    recorder: Recorder
    parameters: Size = 0
    buffers: Size = 0
    prefill_end: Size = 0
    end: Size = 0
    peak: Size = 0
    start: int = 0

    @property
    def resident(self) -> Size:
        """What lies there for good."""
        return self.parameters + self.buffers


def infer(model: Model, job: InferJob, *, events: bool = False, traced: bool = False) -> Inferred:
    """Play a prefill of `seq_len` tokens and `decode` single tokens after it.

    `traced=True` equals a trace, under which the math kernel adds its mask out of place (see Tape).
    """
    program = program_of(model)
    needed, length = job.seq_len + job.decode, cache_length(job)
    if job.cache == "static" and yes(needed > length):
        raise UsageError(
            f"A static cache of {job.max_cache_len} tokens cannot hold {needed}.", "Raise --max-cache-len, or say 0."
        )
    tape = Tape(Recorder(events), in_place_sums=not traced)
    recorder, tape.kernel = tape.recorder, job.attention
    with tape.playing(), tape.no_grad():
        recorder.mark("parameters")
        bound = bind(model, tape, job.precision)
        played = Inferred(recorder, parameters=recorder.live)
        buffers = program.buffers(bound)
        played.buffers = recorder.live - played.parameters
        recorder.segments.clear()
        played.start = len(recorder.stream.events) if recorder.stream is not None else 0
        recorder.peak = recorder.live
        _passes(bound, program, model, job, played)
        del bound, buffers
    return played


def cache_length(job: InferJob) -> Size:
    """Return how many tokens a static cache has room for."""
    return job.seq_len + job.decode if yes(job.max_cache_len == 0) else job.max_cache_len


def _passes(bound: Bound, program: Any, model: Model, job: InferJob, played: Inferred) -> None:
    """Play the prefill and every single token, and note what is alive when."""
    recorder = bound.tape.recorder
    recorder.mark("prefill")
    cache = None
    if job.cache == "static":
        cache = static_cache(bound.tape, program.sliding_windows(bound), cache_length(job))
    cache = _pass(bound, program, model, job, job.seq_len, job.seq_len, cache)
    played.prefill_end = recorder.live
    for index in range(1, job.decode + 1):
        recorder.mark(f"decode {index}")
        seen = job.seq_len + index
        cache = _pass(bound, program, model, job, seen if job.cache == "none" else 1, seen, cache)
    recorder.mark("end")
    played.end, played.peak = recorder.live, recorder.peak


def _pass(
    bound: Bound, program: Any, model: Model, job: InferJob, new: Size, seen: Size, cache: Cache | None
) -> Cache | None:
    """Play `new` tokens of `seen`, return the cache. The mask, when there is one, covers all tokens seen."""
    tape = bound.tape
    inputs = {"input_ids": tape.empty((job.batch, new), "int64", op="input_ids")}
    if job.padding:
        inputs["attention_mask"] = tape.empty((job.batch, seen), "int64", op="attention_mask")
    outputs = program.causal_lm(
        bound,
        inputs["input_ids"],
        None,
        False,
        model.model_type,
        attention_mask=inputs.get("attention_mask"),
        past_key_values=cache,
        use_cache=job.cache != "none",
        logits_to_keep=job.logits_to_keep,
    )
    kept: Cache | None = outputs[-1]
    return kept
