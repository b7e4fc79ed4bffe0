"""The real assistant: candidates as AssistedCandidateGenerator has them written by _sample, greedily."""

from __future__ import annotations

from typing import Any

import torch

from oomph.job import InferJob

NEW = 2  # tokens of the other model that it has not read: the last one that it wrote itself, and one more


class Assistant:
    """A model with its cache, which stays from one draft to the next."""

    def __init__(self, model: Any, job: InferJob) -> None:
        self.model, self.job = model, job
        self.cache: Any = None

    def candidates(self, input_ids: Any) -> tuple[Any, Any]:
        """Return the tokens with candidates behind them, and the fp32 scores [1, candidates, V] of these."""
        ids, scores = self._written(input_ids)
        stacked = torch.stack(scores, dim=1)
        return ids, stacked

    def _written(self, input_ids: Any) -> tuple[Any, tuple[Any, ...]]:
        scores: tuple[Any, ...] = ()
        new = input_ids if self.cache is None else input_ids[:, -NEW:]
        for index in range(self.job.candidates):
            if index:
                new = input_ids[:, -1:]
            outputs = self.model(input_ids=new, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            self.cache = outputs.past_key_values
            next_token_logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)
            scores += (next_token_logits,)
            next_tokens = torch.argmax(next_token_logits, dim=-1)
            input_ids = torch.cat([input_ids, next_tokens[:, None]], dim=-1)
            del outputs
        return input_ids, scores
