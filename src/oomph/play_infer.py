"""Playing an inference job on the tape: a prefill and single tokens after it, without gradients.

Of each pass only the cache stays; its inputs die first, then its logits, as in oomph.referee.inference.infer.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from oomph.assistant import assistant_model
from oomph.device_map import is_away, placed, refuse, waiting_paths
from oomph.errors import UnsupportedError, UsageError
from oomph.job import InferJob
from oomph.job_words import INTEGER_CACHES, OFFLOADED_CACHES, STATIC_CACHES
from oomph.methods import adapted
from oomph.methods.gptq import exllama_rooms
from oomph.model import Model
from oomph.played import Played
from oomph.programs import program_of, refuse_headless, refuse_unheard
from oomph.programs.assistant import Assistant
from oomph.programs.attention_kernels import kernel_of
from oomph.programs.beams import repeated, search
from oomph.programs.cache import OLD, Cache, EncoderDecoderCache, dynamic_cache, static_cache
from oomph.programs.integer_cache import integer_cache
from oomph.programs.llama import attention, rotary_size
from oomph.programs.lookup import write
from oomph.programs.mixer_packages import check_mixers
from oomph.programs.offloaded_cache import offloaded_cache
from oomph.programs.quantised_cache import fp8_cache
from oomph.programs.towers import images
from oomph.tape import Tape
from oomph.tape.bound import Bound, bind
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size, yes
from oomph.tape.sym import Sym
from oomph.tape.tape import Place
from oomph.tape.turns import Turns

MADE_BEFORE = ("fp8", *INTEGER_CACHES, *STATIC_CACHES, *OFFLOADED_CACHES)  # caches that forward does not make itself
MOST_DECODED = 256  # each token is a pass through all layers; so many take some seconds
MOST_DRAFTED = 512  # the same of an assistant, whose passes are many to a token


def infer(model: Model, job: InferJob, *, on: Place = "gpu", turns: Turns = "all") -> Played:
    """Play a prefill of `seq_len` tokens and `decode` single tokens after it.

    `on` says whose events are played (see tape.Place).
    """
    job = placed(model, job)
    refuse_headless(model)
    check_mixers(model, job)
    model = adapted(model, job)
    program = program_of(model)
    writes = model.objective == "seq2seq-lm"
    _check(program, model, job)
    tape = Tape(on)
    tape.turns = turns
    recorder, tape.kernel = tape.recorder, kernel_of(model, job)
    tape.mixers = frozenset(job.mixers.split("+"))
    tape.experts, tape.routing, tape.training, tape.release = job.experts, job.routing, False, job.release
    tape.heads_of_4_51 = job.release == "4.51"
    tape.images, tape.image_size, tape.audio = job.images, job.image_size, job.audio
    if job.offload != "none":
        refuse(model, job)
        tape.waits = partial(is_away, waiting_paths(model, job.offload))
    with tape.playing(), tape.no_grad():
        recorder.mark("parameters")
        bound = bind(model, tape, job.precision)
        assistant = Assistant(assistant_model(job.assistant), model, tape, job) if job.assistant else None
        made = [*program.buffers(bound), *exllama_rooms(bound), *rotary_caches(bound, model, job)]
        buffers = [tape.note(each, "buffer") for each in made]
        del made
        played = Played(recorder, recorder.position)
        if not writes and (job.beams > 1 or job.candidates):
            _search(bound, program, model, job, played, assistant)
        else:
            (_encode_and_decode if writes else _passes)(bound, program, model, job, played)
        del bound, buffers, assistant
    return played


def _check(program: Any, model: Model, job: InferJob) -> None:
    """Refuse what a model is not played with without gradients."""
    writes = model.objective == "seq2seq-lm"
    if writes and job.cache in MADE_BEFORE:
        raise UnsupportedError("oomph plays encoder-decoders with a dynamic cache.", "Leave --cache out, or say none.")
    if writes and job.candidates:
        raise UnsupportedError("oomph plays prompt lookup of decoders alone.", "Leave out --candidates.")
    if model.objective not in ("causal-lm", "seq2seq-lm") and (job.decode or job.cache in MADE_BEFORE or job.beams > 1):
        raise UsageError("Only language models decode from a cache.", "Leave out --decode; say --cache none.")
    if job.decode > MOST_DECODED:
        raise UnsupportedError(
            f"oomph plays up to {MOST_DECODED} tokens one by one, not {job.decode}.",
            "The last one takes the most: read more with --context and --decode a few.",
        )
    if getattr(program, "cache_made_before", False) and (job.beams > 1 or job.candidates):
        raise UsageError("States of this model stay with its modules: no search goes back.", "Decode token by token.")
    drafted = job.candidates * (job.decode + 1)
    if job.assistant and drafted > MOST_DRAFTED:
        raise UnsupportedError(
            f"oomph plays up to {MOST_DRAFTED} candidates of an assistant, not {drafted}.",
            "Say fewer --candidates, or less --decode: the last one takes the most.",
        )
    needed, length = job.seq_len + job.decode, cache_length(job)
    if job.cache in STATIC_CACHES and yes(needed > length):
        raise UsageError(
            f"A static cache of {job.max_cache_len} tokens cannot hold {needed}.", "Raise --max-cache-len, or say 0."
        )
    if job.images and not hasattr(program, "image_features"):
        fix = "Leave out --images, or trace the real code: oomph trace --infer."
        raise UnsupportedError("oomph does not play images with this model without gradients.", fix)
    refuse_unheard(model, job)


def rotary_caches(bound: Bound, model: Model, job: InferJob) -> list[Sym]:
    """Return the sines and cosines that each layer keeps in transformers 4.38, for all positions of the model.

    Source: transformers 4.38.2, models/qwen2/modeling_qwen2.py, Qwen2RotaryEmbedding._set_cos_sin_cache.
    """
    if job.release != OLD:
        return []
    if model.model_type != "qwen2" or model.context_length is None:
        raise UnsupportedError("oomph knows transformers 4.38 of Qwen2 alone.", "Leave out --release.")
    shape = (model.context_length, rotary_size(attention(bound.model)))
    return [bound.tape.empty(shape, job.precision, op=name) for _ in bound.model.layers for name in ("cos", "sin")]


def cache_length(job: InferJob) -> Size:
    """Return how many tokens a static cache has room for."""
    return job.seq_len + job.decode if yes(job.max_cache_len == 0) else job.max_cache_len


def _passes(bound: Bound, program: Any, model: Model, job: InferJob, played: Played) -> None:
    """Play the prefill and every single token, and note where they end."""
    recorder = bound.tape.recorder
    recorder.mark("prefill")
    cache = _empty_cache(bound, program, job)
    cache = _pass(bound, program, model, job, job.seq_len, job.seq_len, cache)
    played.forward_end = recorder.position
    for index in range(1, job.decode + 1):
        recorder.mark(f"decode {index}")
        seen = job.seq_len + index
        cache = _pass(bound, program, model, job, seen if job.cache == "none" else 1, seen, cache)
    recorder.mark("end")
    played.backward_end = played.end = recorder.position


def _empty_cache(bound: Bound, program: Any, job: InferJob) -> Cache | None:
    """Return a cache that is made before the first pass; None where forward makes it, or there is none."""
    before = job.cache == "dynamic" and getattr(program, "cache_made_before", False)
    if job.cache not in MADE_BEFORE and not job.candidates and not before:
        return None
    windows = program.sliding_windows(bound)
    if job.cache == "dynamic":
        return dynamic_cache(bound.tape, windows)
    if job.cache == "fp8":
        return fp8_cache(windows)
    if job.cache in INTEGER_CACHES:
        return integer_cache(job, windows)
    length = cache_length(job) if job.cache in STATIC_CACHES else None
    if job.cache in OFFLOADED_CACHES:
        return offloaded_cache(bound.tape, windows, length)
    return static_cache(bound.tape, windows, cache_length(job))


def _encode_and_decode(bound: Bound, program: Any, model: Model, job: InferJob, played: Played) -> None:
    """Play an encoder on `seq_len` tokens, then the decoder on its first token and `decode` more."""
    recorder = bound.tape.recorder
    recorder.mark("prefill")
    encoded, mask = _encoded(bound, program, model, job)
    if job.beams > 1:
        given = [encoded, mask]
        del encoded
        _encoded_search(bound, program, model, job, played, given)
        return
    cache = _decoder_pass(bound, program, model, job, encoded, mask, 1, None)
    played.forward_end = recorder.position
    for index in range(1, job.decode + 1):
        recorder.mark(f"decode {index}")
        new = index + 1 if job.cache == "none" else 1
        cache = _decoder_pass(bound, program, model, job, encoded, mask, new, cache)
    recorder.mark("end")
    played.backward_end = played.end = recorder.position


def _encoded(bound: Bound, program: Any, model: Model, job: InferJob) -> tuple[Sym, Sym | None]:
    """Play the encoder, return its states and the mask of what it read."""
    tape, ids = bound.tape, {"input_ids": ((job.batch, job.seq_len), "int64")}
    tape.scope = ""
    read = program.reads(bound, job.batch, job.precision) if hasattr(program, "reads") else ids
    masks = {"attention_mask": ids["input_ids"]} if job.padding else {}
    inputs = {
        name: tape.note(tape.empty(shape, dtype, op=name), "input") for name, (shape, dtype) in (read | masks).items()
    }
    first = next(iter(inputs))
    states: Sym = program.encode(bound, inputs[first], Checkpointing(), inputs.get("attention_mask"), model.model_type)
    return states, inputs.get("attention_mask")


def _encoded_search(bound: Bound, program: Any, model: Model, job: InferJob, played: Played, given: list[Any]) -> None:
    """Play a search with beams over states and mask of an encoder, there once for each beam from then on."""
    tape = bound.tape
    for at, each in enumerate(given):
        if each is not None:
            given[at] = tape.note(repeated(each, job.beams), "input")

    def run(ids: Sym, seen: Size, cache: EncoderDecoderCache | None) -> Any:
        return _decoded(bound, program, model, job, given[0], given[1], ids, cache)

    prompt = tape.note(tape.empty((job.batch, 1), "int64", op="input_ids"), "input")
    search(tape, job, run, prompt, None)
    _note_ends(played)


def _decoder_pass(
    bound: Bound,
    program: Any,
    model: Model,
    job: InferJob,
    encoded: Sym,
    mask: Sym | None,
    new: Size,
    cache: EncoderDecoderCache | None,
) -> EncoderDecoderCache | None:
    """Play the decoder on `new` tokens, return the cache."""
    ids = bound.tape.note(bound.tape.empty((job.batch, new), "int64", op="input_ids"), "input")
    outputs = _decoded(bound, program, model, job, encoded, mask, ids, cache)
    kept: EncoderDecoderCache | None = outputs[-1]
    return kept


def _decoded(
    bound: Bound,
    program: Any,
    model: Model,
    job: InferJob,
    encoded: Sym,
    mask: Sym | None,
    ids: Sym,
    cache: EncoderDecoderCache | None,
) -> Any:
    """Play a pass of the decoder; the last of what it returns is the cache."""
    bound.tape.scope = ""
    return program.decode(
        bound, ids, encoded, Checkpointing(), mask, model.model_type, cache, use_cache=job.cache != "none"
    )


def _search(
    bound: Bound, program: Any, model: Model, job: InferJob, played: Played, assistant: Assistant | None
) -> None:
    """Play a search with beams, or a lookup of candidates, over prompts that the caller holds."""
    tape = bound.tape
    if job.candidates:
        job = replace(job, logits_to_keep=job.candidates + 1)

    def run(ids: Sym, seen: Size, cache: Cache | None) -> Any:
        return _outputs(bound, program, model, job, {"input_ids": ids, **_mask(bound, job, ids.shape[0], seen)}, cache)

    tape.recorder.mark("prefill")
    prompt = tape.note(tape.empty((job.batch, job.seq_len), "int64", op="input_ids"), "input")
    cache = _empty_cache(bound, program, job)
    if job.candidates:
        write(tape, job, run, prompt, cache, assistant)
    else:
        search(tape, job, run, prompt, cache)
    _note_ends(played)


def _note_ends(played: Played) -> None:
    """Note where the prefill and the last token end."""
    ends = {name: position for position, name in played.recorder.marks}
    played.backward_end = played.end = ends["end"]
    played.forward_end = ends.get("decode 1", played.end)


def _pass(
    bound: Bound, program: Any, model: Model, job: InferJob, new: Size, seen: Size, cache: Cache | None
) -> Cache | None:
    """Play `new` tokens of `seen`, return the cache. The mask, when there is one, covers all tokens seen."""
    tape = bound.tape
    tape.scope = ""
    before = _tensors(cache) if job.release == OLD else []  # noqa: F841  a tuple of its own, held by generate()
    inputs = {"input_ids": tape.note(tape.empty((job.batch, new), "int64", op="input_ids"), "input")}
    if job.images or job.audio:
        for name, (shape, dtype) in _sights(program, bound, job, new, seen).items():
            inputs[name] = tape.note(tape.empty(shape, dtype, op=name), "input")
    inputs |= _mask(bound, job, job.batch, seen)
    outputs = _outputs(bound, program, model, job, inputs, cache)
    _, _logits, kept, *_features = outputs  # which die in this order, those of images last
    del outputs
    made: Cache | None = cache if kept is None else kept
    return made


def _sights(program: Any, bound: Bound, job: InferJob, new: Size, seen: Size) -> Shapes:
    """Return what comes with tokens of images or of a recording: with the first ones these, later what a class looks at
    anew, if any.
    """
    if yes(new == seen):
        found: Shapes = (program.inputs_of_audio if job.audio else program.inputs_of_images)(bound, job)
        return found
    return program.inputs_after_images(bound, job, new) if hasattr(program, "inputs_after_images") else {}


def _mask(bound: Bound, job: InferJob, batch: Size, seen: Size) -> dict[str, Sym]:
    """Return a mask over all tokens seen, if there is padding."""
    if not job.padding:
        return {}
    made = bound.tape.empty((batch, seen), "int64", op="attention_mask")
    return {"attention_mask": bound.tape.note(made, "input")}


def _outputs(
    bound: Bound, program: Any, model: Model, job: InferJob, inputs: dict[str, Sym], cache: Cache | None
) -> Any:
    """Play a forward pass; return loss, logits and cache."""
    bound.tape.scope = ""
    seen = {"images": images(inputs)} if job.images else {"audio": images(inputs)} if job.audio else {}
    return program.causal_lm(
        bound,
        inputs["input_ids"],
        None,
        Checkpointing(),
        model.decoder_type,
        attention_mask=inputs.get("attention_mask"),
        past_key_values=cache,
        use_cache=job.cache != "none",
        logits_to_keep=0 if job.release == OLD else job.logits_to_keep,
        **seen,
    )


def _tensors(cache: Cache | None) -> list[Any]:
    """Return the keys and values of every layer as they are."""
    return [] if cache is None else [kept for layer in cache.layers for kept in (layer.keys, layer.values)]
