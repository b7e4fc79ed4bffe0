"""Candidates as `generate` has them: found in the prompt or written by an assistant, read together, all accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from oomph.job import InferJob
from oomph.referee.assistant import Assistant

Pass = Callable[[Any, int, Any], Any]  # ids, tokens seen, cache: outputs


def write(
    job: InferJob, mark: Callable[[str], None], run: Pass, prompt: Any, cache: Any, assistant: Assistant | None
) -> None:
    """Read a prompt [1, S] and candidates, then candidates `decode` times; logits of a step stay until the next one.

    The loop of _assisted_decoding without what looks for candidates and for ends of sequences.
    """
    mark("prefill")
    input_ids, found = prompt, job.candidates
    outputs: Any = None
    for index in range(job.decode + 1):
        if index:
            mark(f"decode {index}")
        if assistant is None:
            candidate_input_ids = torch.cat((input_ids, prompt[:, :found]), dim=1)
        else:
            candidate_input_ids, _candidate_logits = assistant.candidates(input_ids)  # kept as generate() keeps them
        new = candidate_input_ids[:, -(found + 1) :] if index else candidate_input_ids
        outputs = run(new, candidate_input_ids.shape[1], cache)
        cache = outputs.past_key_values
        new_logits = outputs.logits[:, -found - 1 :].to(dtype=torch.float32)
        next_token_logits = new_logits.clone()  # noqa: F841  kept as generate() keeps it
        selected_tokens = new_logits.argmax(dim=-1)
        candidate_new_tokens = candidate_input_ids[:, input_ids.shape[1] :]
        n_matches = ((~(candidate_new_tokens == selected_tokens[:, :-1])).cumsum(dim=-1) < 1).sum()
        del n_matches
        input_ids = torch.cat((input_ids, selected_tokens), dim=-1)
        cache.crop(0)
    mark("end")
