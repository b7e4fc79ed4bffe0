"""Beam search: prompts are read once for each beam, scores of the whole vocabulary kept from step to step, and caches
put in the order of the beams that go on. Source: transformers 5.23, generation/utils.py, _beam_search and its helpers.

Letters: B prompts, N beams, K continuations that are looked at, L tokens of a sequence at most, V vocabulary. What
`generate` looks after besides (stopping criteria, masks of ones) are small tensors that are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oomph import ops
from oomph.job import InferJob
from oomph.job_words import KEPT_PER_BEAM
from oomph.programs.cache import Cache
from oomph.tape.autograd import like
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, view_of
from oomph.tape.tape import Tape

Pass = Callable[[Sym, Size, Any], Any]  # ids, tokens seen, cache: (loss,) logits and cache


class Beams:
    """Mirror what _beam_search holds from one pass to the next: sequences [B, N, L] and scores [B, N]."""

    def __init__(self, job: InferJob, input_ids: Sym) -> None:
        tape = input_ids.tape
        read = input_ids.shape[1]
        batch, beams, length = job.batch, job.beams, read + job.decode + 1
        self.job, self.cur_len, self.kept = job, read, KEPT_PER_BEAM * beams
        halves = [tape.empty((beams,), "bool", op="ones"), tape.empty((self.kept - beams,), "bool", op="zeros")]
        self.top_mask = tape.empty((self.kept,), "bool", op="cat")
        while halves:
            halves.pop()
        self.running = tape.empty((batch, beams, length), "int64", op="full")
        self.sequences = ops.clone(self.running)
        self.running_scores = tape.empty((batch, beams), "fp32", op="zeros")
        unlikely = tape.empty((), "fp32", op="lift_fresh")
        del unlikely
        self.scores = tape.empty((batch, beams), "fp32", op="full")
        self.finished = tape.empty((batch, beams), "bool", op="zeros")
        self.improvable = tape.empty((batch, 1), "bool", op="ones")
        self.running_indices = tape.empty((batch, beams, job.decode + 1), "int32", op="full")
        self.indices = ops.clone(self.running_indices)

    def next_ids(self) -> Sym:
        """Return what the next pass reads: the last token of each beam, or all of them where there is no cache."""
        running, beams = self.running, self.job.batch * self.job.beams
        flat = ops.view(ops.slice_axis(running, 2, 0, self.cur_len), (beams, self.cur_len))
        return ops.slice_axis(flat, 1, self.cur_len - 1, self.cur_len) if self.job.cache != "none" else flat

    def choose(self, log_probs: Sym, cache: Cache | None) -> None:
        """Go on with the best beams: of scores [B, N * V] and the cache that made them."""
        top_log_probs, top_running, top_indices = self._continuations(log_probs)
        hits = log_probs.tape.empty((self.job.batch, self.kept), "bool", op="zeros")
        self.running, self.running_scores, self.running_indices = self._go_on(
            top_log_probs, top_running, top_indices, hits
        )
        self.sequences, self.scores, self.indices, self.finished = self._finish(
            top_log_probs, top_running, top_indices, hits
        )
        if cache is not None:
            index = self.running_indices
            flat = (self.job.batch * self.job.beams,)
            cache.reorder(view_of(index, flat, (index.shape[-1],)))
        self.cur_len = self.cur_len + 1

    def _continuations(self, log_probs: Sym) -> tuple[Sym, Sym, Sym]:
        """Mirror _get_top_k_continuations."""
        tape, batch = log_probs.tape, self.job.batch
        top_log_probs, top = _top(log_probs, self.kept)
        beam = ops.unary(top, "floor_divide")
        top_indices = _gather(self.running_indices, beam)
        top_running = _gather(self.running, beam)
        top_ids = ops.unary(top, "remainder")
        counted = tape.empty((batch,), "int64", op="arange")
        offset = tape.empty((batch, 1), "int64", op="mul")
        del counted
        moved = ops.unary(beam, "add")
        del top, beam, top_ids, offset, moved
        return top_log_probs, top_running, top_indices

    def _go_on(self, top_log_probs: Sym, top_running: Sym, top_indices: Sym, hits: Sym) -> tuple[Sym, Sym, Sym]:
        """Mirror _get_running_beams_for_next_iteration."""
        penalty = _penalty(hits)
        going = ops.unary(top_log_probs, "add")
        del penalty
        _, best = _top(going, self.job.beams)
        del _
        running = _gather(top_running, best)
        scores = _gather(going, best)
        indices = _gather(top_indices, best)
        del going, best
        return running, scores, indices

    def _finish(self, top_log_probs: Sym, top_running: Sym, top_indices: Sym, hits: Sym) -> tuple[Sym, Sym, Sym, Sym]:
        """Mirror _update_finished_beams."""
        tape, batch = hits.tape, self.job.batch
        just_finished = ops.unary(hits, "bitwise_and")
        top_log_probs = ops.unary(top_log_probs, "div")
        full = ops.unary(tape.empty((batch, 1), "bool", op="all"), "bitwise_and")
        penalty = _penalty(full)
        del penalty
        hopeless = ops.unary(self.improvable, "bitwise_not")
        wide = like(hopeless, "fp32")
        del hopeless
        penalty = ops.unary(wide, "mul")
        del wide, penalty
        running = ops.unary(just_finished, "bitwise_not")
        penalty = like(running, "fp32", "mul")
        del running, penalty
        merged_sequences = ops.cat((self.sequences, top_running), 1)
        merged_scores = ops.cat((self.scores, top_log_probs), 1)
        merged_indices = ops.cat((self.indices, top_indices), 1)
        merged_finished = ops.cat((self.finished, just_finished), 1)
        _, best = _top(merged_scores, self.job.beams)
        del _
        made = (
            _gather(merged_sequences, best),
            _gather(merged_scores, best),
            _gather(merged_indices, best),
            _gather(merged_finished, best),
        )
        del top_log_probs, just_finished, full
        del merged_sequences, merged_scores, merged_indices, merged_finished, best
        return made


def _penalty(mask: Sym) -> Sym:
    """Return mask.to(fp32) * number."""
    return ops.unary(like(mask, "fp32"), "mul")


def _top(scores: Sym, number: Size) -> tuple[Sym, Sym]:
    """Return values and int64 indices of torch.topk."""
    shape = (*scores.shape[:-1], number)
    return scores.tape.empty(shape, scores.dtype, op="topk"), scores.tape.empty(shape, "int64", op="topk")


def _gather(tensor: Sym, indices: Sym) -> Sym:
    """Mirror _gather_beams: take_along_dim brings indices into range first, as many as numbers are taken."""
    shape = (*indices.shape, *tensor.shape[2:])
    in_range = tensor.tape.empty(shape, "int64", op="remainder")
    made = tensor.tape.empty(shape, tensor.dtype, op="gather")
    del in_range
    return made


def repeated(states: Sym, beams: int) -> Sym:
    """Return states [B, ..] once for each beam, [B * N, ..]: a copy."""
    shape = (states.shape[0] * beams, *states.shape[1:])
    return states.tape.empty(shape, states.dtype, op="repeat_interleave")


def search(tape: Tape, job: InferJob, run: Pass, prompt: Sym, cache: Any) -> Any:
    """Read prompts [B, S] once for each beam, then write `decode` tokens; logits and scores of a step stay until the
    next one. Return the cache.
    """
    rows = job.batch * job.beams
    read = prompt.shape[1]
    input_ids = tape.note(repeated(prompt, job.beams), "input")
    beams = Beams(job, input_ids)
    outputs = run(input_ids, read, cache)
    for index in range(job.decode + 1):
        if index:
            tape.recorder.mark(f"decode {index}")
            ids = beams.next_ids()
            outputs = run(ids, read + index, cache)
        cache = outputs[-1]
        vocab = outputs[-2].shape[-1]
        logits = tape.note(tape.empty((rows, vocab), "fp32", op="_to_copy"), "logits of every beam")
        log_probs = ops.unary(logits, "log_softmax")
        del outputs
        log_probs = ops.unary(log_probs, "add")
        log_probs = tape.note(ops.view(log_probs, (job.batch, job.beams * vocab)), "scores of every beam")
        beams.choose(log_probs, cache)
    tape.recorder.mark("end")
    return cache
