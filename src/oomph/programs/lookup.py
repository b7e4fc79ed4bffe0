"""Candidates, found in the prompt or written by an assistant, are read together, and fp32 logits made of all of them.

Source: transformers 5.23, generation/utils.py, _assisted_decoding; the real loop looks for candidates and ends of
sequences with small tensors besides. All candidates are accepted, which takes the most.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.job import InferJob
from oomph.programs.assistant import Assistant
from oomph.programs.beams import Pass
from oomph.tape.autograd import like
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape


def write(tape: Tape, job: InferJob, run: Pass, prompt: Sym, cache: Any, assistant: Assistant | None) -> None:
    """Read a prompt [1, S] and candidates, then candidates `decode` times; logits of a step stay until the next one."""
    tape.recorder.mark("prefill")
    input_ids, found = prompt, job.candidates
    outputs: Any = None
    for index in range(job.decode + 1):
        if index:
            tape.recorder.mark(f"decode {index}")
        if assistant is None:
            candidates = ops.cat((input_ids, ops.slice_axis(prompt, 1, 0, found)), 1)
        else:
            candidates, _candidate_logits = assistant.candidates(input_ids)  # kept as generate() keeps them
        length = candidates.shape[1]
        new = ops.slice_axis(candidates, 1, length - found - 1, length) if index else candidates
        outputs = run(new, length, cache)
        cache = outputs[-1]
        new_logits = _last(outputs[1], found + 1)
        next_token_logits = ops.clone(new_logits)  # noqa: F841  kept as generate() keeps it
        selected = tape.empty((job.batch, found + 1), "int64", op="argmax")
        new_tokens = ops.slice_axis(candidates, 1, length - found, length)  # noqa: F841  another look at all of them
        _matches(tape, job)
        input_ids = ops.cat((input_ids, selected), 1)
    tape.recorder.mark("end")


def _last(logits: Sym, number: int) -> Sym:
    """Return the last logits in fp32, a view where they are that already."""
    length = logits.shape[1]
    last = ops.slice_axis(logits, 1, length - number, length)
    return last if last.dtype == "fp32" else like(last, "fp32")


def _matches(tape: Tape, job: InferJob) -> None:
    """Play the count of candidates that are accepted."""
    shape = (job.batch, job.candidates)
    equal = tape.empty(shape, "bool", op="eq")
    differing = ops.unary(equal, "bitwise_not")
    del equal
    counted = tape.empty(shape, "int64", op="cumsum")
    del differing
    before = tape.empty(shape, "bool", op="lt")
    del counted
    matches = tape.empty((), "int64", op="sum")
    del before, matches
