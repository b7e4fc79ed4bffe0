"""The real job without gradients: a prefill and single tokens after it, beams, candidates, encoders and decoders.

As in jobs.py local variables are few on purpose, because what they hold stays in memory.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch

from oomph.job import InferJob
from oomph.referee import beams, lookup
from oomph.referee.assistant import Assistant
from oomph.referee.caches import empty_cache
from oomph.referee.inputs import padding_mask, text_inputs
from oomph.referee.watcher import Watcher


def infer(model: Any, job: InferJob, watcher: Watcher, warm_up: bool = False, assistant: Any = None) -> None:
    """Run a prefill and `decode` single tokens after it; of each pass only the cache stays.

    `warm_up` asks for the same once before, whose cache is dropped.
    """
    with torch.no_grad():
        if warm_up:
            _prefill_and_decode(model, job, watcher, assistant)
        watcher.ready(model, None, assistant)
        _prefill_and_decode(model, job, watcher, assistant)


def _prefill_and_decode(model: Any, job: InferJob, watcher: Watcher, assistant: Any) -> None:
    if getattr(model.config, "is_encoder_decoder", False):
        return _encode_and_decode(model, job, watcher)
    if job.beams > 1 or job.candidates:
        return _search(model, job, watcher, assistant)
    watcher.mark("prefill")
    cache = _pass(model, job, job.seq_len, job.seq_len, empty_cache(model, job))
    for index in range(1, job.decode + 1):
        watcher.mark(f"decode {index}")
        seen = job.seq_len + index
        cache = _pass(model, job, seen if job.cache == "none" else 1, seen, cache)
    watcher.mark("end")
    return None


def _encode_and_decode(model: Any, job: InferJob, watcher: Watcher) -> None:
    """Run an encoder on `seq_len` tokens, then the decoder on its first token and `decode` more; what the encoder gave
    stays, as in `generate`.
    """
    watcher.mark("prefill")
    encoded, mask = _encoded(model, job)
    if job.beams > 1:
        return _encoded_search(model, job, watcher, encoded, mask)
    cache = _decoder_pass(model, job, encoded, mask, 1, None)
    for index in range(1, job.decode + 1):
        watcher.mark(f"decode {index}")
        cache = _decoder_pass(model, job, encoded, mask, index + 1 if job.cache == "none" else 1, cache)
    watcher.mark("end")
    return None


def _encoded_search(model: Any, job: InferJob, watcher: Watcher, encoded: Any, mask: Any) -> None:
    """Search with beams over what an encoder gave, which is there once for each beam from then on."""
    encoded["last_hidden_state"] = encoded.last_hidden_state.repeat_interleave(job.beams, dim=0)
    if mask is not None:
        mask = mask.repeat_interleave(job.beams, dim=0)

    def run(ids: Any, seen: int, cache: Any) -> Any:
        return _decoded(model, job, encoded, mask, ids, cache)

    prompt = torch.zeros((job.batch, 1), dtype=torch.long, device=model.device)
    beams.search(model, job, watcher.mark, run, prompt, None)


def _encoded(model: Any, job: InferJob) -> tuple[Any, Any]:
    """Return what the encoder makes of its input, and the mask that the decoder sees it through."""
    inputs = text_inputs(model, job.batch, job.seq_len, job.seq_len if job.padding else 0)
    return model.get_encoder()(**inputs), inputs.get("attention_mask")


def _decoder_pass(model: Any, job: InferJob, encoded: Any, mask: Any, new: int, cache: Any) -> Any:
    """Run the decoder on `new` tokens, return the cache."""
    ids = torch.zeros((job.batch, new), dtype=torch.long, device=model.device)
    outputs = _decoded(model, job, encoded, mask, ids, cache)
    return outputs.past_key_values if job.cache != "none" else None


def _decoded(model: Any, job: InferJob, encoded: Any, mask: Any, ids: Any, cache: Any) -> Any:
    options = {"encoder_outputs": encoded, "past_key_values": cache, "use_cache": job.cache != "none"}
    if mask is not None:
        options["attention_mask"] = mask
    return model(decoder_input_ids=ids, **options)


def _search(model: Any, job: InferJob, watcher: Watcher, assistant: Any) -> None:
    """Search with beams, or look candidates up, over prompts that the caller holds."""

    def run(ids: Any, seen: int, cache: Any) -> Any:
        return _outputs(
            model, job, {"input_ids": ids, **padding_mask(model, ids.shape[0], seen if job.padding else 0)}, cache
        )

    watcher.mark("prefill")
    if job.candidates:
        job = replace(job, logits_to_keep=job.candidates + 1)
    prompt = text_inputs(model, job.batch, job.seq_len, 0)["input_ids"]
    if job.candidates:
        drafts = Assistant(assistant, job) if assistant is not None else None
        lookup.write(job, watcher.mark, run, prompt, empty_cache(model, job), drafts)
    else:
        beams.search(model, job, watcher.mark, run, prompt, empty_cache(model, job))


def _pass(model: Any, job: InferJob, new: int, seen: int, cache: Any) -> Any:
    """Run `new` tokens of `seen`, return the cache. The mask, when there is one, covers all tokens seen."""
    inputs = text_inputs(model, job.batch, new, seen if job.padding else 0)
    if job.images:
        from oomph.referee.images import add_images, add_sight

        (add_sight if seen - new else add_images)(inputs, model, job)
    if job.audio and seen == new:
        from oomph.referee.audio import add_audio

        add_audio(inputs, model, job)
    outputs = _outputs(model, job, inputs, cache)
    return outputs.get(_cache_word(model), cache) if job.cache != "none" else None


def _outputs(model: Any, job: InferJob, inputs: dict[str, Any], cache: Any) -> Any:
    options = {_cache_word(model): cache, "use_cache": job.cache != "none"}
    if job.logits_to_keep and "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = job.logits_to_keep
    return model(**inputs, **options)


def _cache_word(model: Any) -> str:
    """Return what a model calls its cache; cache_params is Mamba's word."""
    takes = inspect.signature(model.forward).parameters
    return "past_key_values" if "past_key_values" in takes else "cache_params"
