"""Beam search as `generate` does it: the same helpers of the real model around the passes of a job.

What `generate` looks after besides is left out: stopping criteria, processors that change nothing, masks of ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from oomph.job import InferJob
from oomph.job_words import KEPT_PER_BEAM

UNLIKELY = -1e9  # of beams that are the same as the first one; no byte depends on it
Pass = Callable[[Any, int, Any], Any]  # ids, tokens seen, cache: outputs


class Beams:
    """What a search holds from one pass to the next. Sequences [B, beams, length], scores [B, beams]."""

    def __init__(self, model: Any, job: InferJob, input_ids: Any) -> None:
        read = input_ids.shape[1]
        batch, beams, length = job.batch, job.beams, read + job.decode + 1
        device = input_ids.device
        self.model, self.job = model, job
        self.prompt_len = self.cur_len = read
        self.kept = KEPT_PER_BEAM * beams
        mask = (torch.ones((beams), dtype=torch.bool), torch.zeros((self.kept - beams), dtype=torch.bool))
        self.top_mask = torch.cat(mask, dim=0).to(device)
        del mask
        self.running = torch.full((batch, beams, length), -1, dtype=torch.int64, device=device)
        self.running[:, :, : self.cur_len] = model._unflatten_beam_dim(input_ids, batch, beams)
        self.sequences = self.running.detach().clone()
        self.running_scores = torch.zeros((batch, beams), dtype=torch.float, device=device)
        self.running_scores[:, 1:] = UNLIKELY
        self.scores = torch.full((batch, beams), UNLIKELY, dtype=torch.float, device=device)
        self.finished = torch.zeros((batch, beams), dtype=torch.bool, device=device)
        self.improvable = torch.ones((batch, 1), dtype=torch.bool, device=device)
        self.running_indices = torch.full((batch, beams, job.decode + 1), -1, dtype=torch.int32, device=device)
        self.indices = self.running_indices.detach().clone()

    def next_ids(self) -> Any:
        """Return what the next pass reads: the last token of each beam, or all of them where there is no cache."""
        flat = self.model._flatten_beam_dim(self.running[:, :, : self.cur_len])
        return flat[:, -1:] if self.job.cache != "none" else flat

    def choose(self, log_probs: Any, cache: Any) -> None:
        """Go on with the best beams: of scores [B, beams * V] and the cache that made them."""
        model, job = self.model, self.job
        top_log_probs, top_running, top_indices = model._get_top_k_continuations(
            accumulated_log_probs=log_probs,
            running_sequences=self.running,
            running_beam_indices=self.running_indices,
            cur_len=self.cur_len,
            decoder_prompt_len=self.prompt_len,
            do_sample=False,
            beams_to_keep=self.kept,
            num_beams=job.beams,
            batch_size=job.batch,
        )
        hits = torch.zeros((job.batch, self.kept), dtype=torch.bool, device=log_probs.device)
        self.running, self.running_scores, self.running_indices = model._get_running_beams_for_next_iteration(
            topk_log_probs=top_log_probs,
            topk_running_sequences=top_running,
            topk_running_beam_indices=top_indices,
            next_token_hits_stopping_criteria=hits,
            num_beams=job.beams,
        )
        self.sequences, self.scores, self.indices, self.finished = model._update_finished_beams(
            sequences=self.sequences,
            topk_running_sequences=top_running,
            beam_scores=self.scores,
            topk_log_probs=top_log_probs,
            beam_indices=self.indices,
            topk_running_beam_indices=top_indices,
            is_early_stop_heuristic_unsatisfied=self.improvable,
            is_sent_finished=self.finished,
            next_token_hits_stopping_criteria=hits,
            top_num_beam_mask=self.top_mask,
            num_beams=job.beams,
            cur_len=self.cur_len,
            decoder_prompt_len=self.prompt_len,
            length_penalty=1.0,
            early_stopping=False,
        )
        if cache is not None:
            cache.reorder_cache(model._flatten_beam_dim(self.running_indices[..., self.cur_len - self.prompt_len]))
        self.cur_len += 1


def search(model: Any, job: InferJob, mark: Callable[[str], None], run: Pass, prompt: Any, cache: Any) -> None:
    """Read prompts [B, S] once for each beam, then write `decode` tokens; scores and logits of a step stay until the
    next one.
    """
    input_ids = prompt.repeat_interleave(job.beams, dim=0)
    beams = Beams(model, job, input_ids)
    outputs = run(input_ids, input_ids.shape[1], cache)
    for index in range(job.decode + 1):
        if index:
            mark(f"decode {index}")
            ids = beams.next_ids()
            outputs = run(ids, input_ids.shape[1] + index, cache)
        cache = outputs.get("past_key_values", outputs.get("cache_params")) if job.cache != "none" else None
        logits = outputs.logits[:, -1, :].to(copy=True, dtype=torch.float32)
        log_probs = torch.nn.functional.log_softmax(logits, dim=-1)
        del outputs
        log_probs = model._unflatten_beam_dim(log_probs, job.batch, job.beams)
        log_probs = log_probs + beams.running_scores[:, :, None]
        log_probs = torch.reshape(log_probs, (job.batch, -1))
        beams.choose(log_probs, cache)
    mark("end")
