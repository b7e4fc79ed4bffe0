"""An assistant: a smaller model that writes candidates one by one, of which the other one then reads all at once.

Source: transformers 5.23, generation/candidate_generator.py, AssistedCandidateGenerator; generation/utils.py, _sample.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.job import InferJob
from oomph.model import Model
from oomph.programs import program_of
from oomph.programs.cache import Cache
from oomph.tape.bound import bind
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

NEW = 2  # tokens of the other model that it has not read: the last one that it wrote itself, and one more


class Assistant:
    """A model beside another one on a tape, with its weights, its cache and its way of writing candidates."""

    def __init__(self, model: Model, target: Model, tape: Tape, job: InferJob) -> None:
        if model.vocab_size != target.vocab_size:  # generate() wants both tokenizers then, and reads and writes text
            raise UnsupportedError(
                f"The assistant has {model.vocab_size} tokens, {target.name or 'the model'} has {target.vocab_size}.",
                "Name one of the same family: other tokenizers are not modelled.",
            )
        self.model, self.job = model, job
        self.program: Any = program_of(model)
        if model.objective != "causal-lm":
            raise UnsupportedError("An assistant is a decoder.", "Name another one.")
        self.bound = bind(model, tape, job.precision, "assistant")
        if any(window is not None for window in self.program.sliding_windows(self.bound)):
            raise UnsupportedError(
                "Windows and states of an assistant, which keep what may be taken back, are not played.",
                "Name an assistant that attends to all tokens in every layer.",
            )
        self.buffers = [tape.note(each, "buffer") for each in self.program.buffers(self.bound)]
        self.cache: Cache | None = None

    def candidates(self, input_ids: Sym) -> tuple[Sym, Sym]:
        """Return the tokens with candidates behind them, and the fp32 scores [1, candidates, V] of these."""
        tape = input_ids.tape
        kernel, tape.kernel, tape.work = tape.kernel, self.job.attention, "draft"
        ids, scores = self._written(input_ids)
        tape.kernel, tape.work = kernel, "forward"
        stacked = tape.empty((scores[0].shape[0], len(scores), scores[0].shape[-1]), "fp32", op="stack")
        return ids, tape.note(stacked, "scores of candidates")

    def _written(self, input_ids: Sym) -> tuple[Sym, tuple[Sym, ...]]:
        """Mirror _sample: tokens one by one, the scores of each kept."""
        tape, length = input_ids.tape, input_ids.shape[1]
        scores: tuple[Sym, ...] = ()
        new = input_ids if self.cache is None else ops.slice_axis(input_ids, 1, length - NEW, length)
        for index in range(self.job.candidates):
            if index:
                length = input_ids.shape[1]
                new = ops.slice_axis(input_ids, 1, length - 1, length)
            outputs = self._pass(new)
            self.cache = outputs[-1]
            next_token_logits = tape.empty((1, outputs[1].shape[-1]), "fp32", op="_to_copy")
            scores += (next_token_logits,)
            next_tokens = tape.empty((1,), "int64", op="argmax")
            input_ids = ops.cat((input_ids, ops.unsqueeze(next_tokens, 1)), 1)
            del outputs
        return input_ids, scores

    def _pass(self, ids: Sym) -> Any:
        ids.tape.scope = ""
        return self.program.causal_lm(
            self.bound, ids, None, Checkpointing(), self.model.decoder_type,
            past_key_values=self.cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
