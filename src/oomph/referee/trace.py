"""The referee without a GPU: the real transformers and torch.optim code on tensors that have no memory.

`run` traces a job in a process of its own; `trace` does it here (that process, and tests, call it). The result has
the same form as the estimate's events: oomph.stream.Stream.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob, describe
from oomph.job_words import FLASH_ATTN
from oomph.objectives import KINDS as OBJECTIVES
from oomph.referee import isolated
from oomph.referee.meta import INSTALL
from oomph.stream import Event, Label, Stream

SECONDS = 600.0  # a trace of a 70B model takes one minute, of a 671B model two
MEMORY = 6 * 2**30  # bytes beyond the imports; a trace of a 70B model takes a tenth of it
TESTED = {"torch": "2.13.", "transformers": "5.23."}  # versions whose details are checked
Progress = Callable[[int, int], None]  # layers done, layers in all
Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Trace:
    """What a job allocates and frees, and what is known about it.

    Byte counts round each storage to 512 B. `names` says which allocation is which parameter, buffer, gradient or
    optimizer state of those alive at the start. `kernels` are the attention kernels taken.
    """

    stream: Stream
    names: dict[int, str]
    parameter_bytes: int
    buffer_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    kernels: tuple[str, ...]
    versions: dict[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Phase:
    """A stretch between two marks: bytes alive when it begins and ends, and the most in between."""

    name: str
    start_bytes: int
    peak_bytes: int
    end_bytes: int


def phases(stream: Stream) -> list[Phase]:
    """Return the phases of a stream in order, one for each mark.

    >>> phases(Stream([Event(0, 512), Event(1, 1024), Event(1, -1024)], [(0, "forward"), (1, "loss")]))
    [Phase(name='forward', start_bytes=0, peak_bytes=512, end_bytes=512), \
Phase(name='loss', start_bytes=512, peak_bytes=1536, end_bytes=512)]
    """
    live = [0, *stream.live()]
    ends = [position for position, _ in stream.marks[1:]] + [len(stream.events)]
    return [
        Phase(name, live[start], max(live[start : end + 1]), live[end])
        for (start, name), end in zip(stream.marks, ends, strict=True)
    ]


def run(
    raw_config: Mapping[str, Any],
    job: TrainJob | InferJob,
    progress: Progress | None = None,
    seconds: float = SECONDS,
) -> Trace:
    """Trace a job in another process, which is stopped after `seconds`.

    Raises UnsupportedError: transformers is missing, does not know the model, or fails to run it.
    """
    refuse_other_code(job)
    if isinstance(job, TrainJob) and job.objective == "ppo":
        fix = "The estimate was held against PPOTrainer's own code, see docs/objectives.md: oomph train."
        raise UnsupportedError("A trace of PPO begins after the generation, so it is no whole iteration.", fix)
    if not all(map(find_spec, TESTED)):
        raise UnsupportedError("A trace needs torch and transformers.", f"Do: {INSTALL}")
    kind = "train" if isinstance(job, TrainJob) else "infer"
    question = {"config": dict(raw_config), "kind": kind, "job": describe(job)}
    try:
        for message in isolated.messages("oomph.referee.trace", question, seconds):
            if "stream" in message:
                return _unpacked(message)
            if "error" in message:
                raise UnsupportedError(f"The trace failed: {message['error'][:300]}", "Check the config and the job.")
            if progress is not None:
                progress(message["done"], message["total"])
        ended = "exit 0"
    except isolated.Died as died:
        if died.too_slow:
            raise UnsupportedError(f"The trace took more than {seconds:.0f} seconds.", "Try fewer layers.") from None
        ended = died.how
    raise UnsupportedError(f"The trace ended without an answer ({ended}).", "It may need more memory.")


def refuse_other_code(job: TrainJob | InferJob) -> None:
    """Refuse a job of LitGPT's classes or compiled code, and a second model of another size: none of it runs here."""
    if isinstance(job, TrainJob) and job.compile:
        raise UnsupportedError("A trace runs eager torch, not what torch.compile makes of it.", "Leave --compile out.")
    if isinstance(job, TrainJob) and job.teacher:
        raise UnsupportedError("A trace knows a teacher like the student alone.", "Leave --teacher out.")
    if isinstance(job, TrainJob) and job.reward_model:
        raise UnsupportedError("A trace knows a reward model like the policy alone.", "Leave --reward-model out.")
    if isinstance(job, TrainJob) and job.model_code != "transformers":
        raise UnsupportedError(
            f"A trace runs transformers' classes, not those of {job.model_code}.",
            "Leave --model-code out; the estimate was held against LitGPT's own code, see docs/accuracy.md.",
        )


def trace(
    raw_config: Mapping[str, Any],
    job: TrainJob | InferJob,
    progress: Progress | None = None,
    *,
    device: Device = "cuda",
    real: bool = False,
    layer_marks: bool = True,
) -> Trace:
    """Trace a job in this process: `device` "cpu" takes the CPU's kernels, `real` runs on real CPU memory.

    The last two are for checking the trace itself: a fake run on "cpu" must equal a real one, event by event.
    """
    from oomph.referee import fla, inference, jobs, models
    from oomph.referee.optimizers_on_cuda import as_on_cuda
    from oomph.referee.tracker import Tracker
    from oomph.referee.watch import TrackerWatcher, passes

    refuse_other_code(job)
    _import_what_makes_constants(job)
    kernels: list[str] = []
    tracker = Tracker()
    watcher = TrackerWatcher(tracker, passes(job), progress)
    with ExitStack() as stack:
        stack.enter_context(collected())
        stack.enter_context(as_on_cuda(job) if device == "cuda" else nullcontext())
        mode = None
        if not real:
            from oomph.referee.fake import fake_tensors

            packed = isinstance(job, TrainJob) and job.packs and job.sequences_in_row > 1
            halves = isinstance(job, TrainJob) and job.objective == "kto"
            counting = job.images > 0
            searching = isinstance(job, InferJob) and job.beams > 1
            answers = (jobs.scored(job), jobs.read_number(job), halves, counting, searching)
            mode = stack.enter_context(fake_tensors(job.padding, packed, *answers))
            if job.audio:
                from oomph.referee.audio import heard_as_given

                stack.enter_context(heard_as_given(raw_config, job))
        if job.attention in FLASH_ATTN:
            from oomph.referee import flash_attn

            stack.enter_context(flash_attn.installed(job, mode, kernels.append))
        stack.enter_context(_kernels(job, kernels) if device == "cuda" else nullcontext())
        if isinstance(job, InferJob):
            from oomph.referee import caches

            stack.enter_context(caches.as_on_cuda(job))
        if isinstance(job, TrainJob) and job.loss == "fused-head":
            from oomph.referee import trl

            stack.enter_context(trl.as_on_cuda())
        if isinstance(job, TrainJob) and job.objective == "distill":
            from oomph.referee import trl

            stack.enter_context(trl.divergences_as_on_cuda())
        if isinstance(job, TrainJob) and job.loss == "logits" and _takes_kernel(job):
            from oomph.referee import trl

            stack.enter_context(trl.with_kernel_for_logits())
        if isinstance(job, TrainJob) and job.objective == "contrastive-cached":
            from oomph.referee import embeddings

            stack.enter_context(embeddings.of_full_length())
        stack.enter_context(tracker)
        model = models.build(raw_config, job)
        reference = models.build_reference(raw_config, job)
        stack.enter_context(fla.installed(model, job, mode))
        if layer_marks:
            watcher.follow(model)
            if reference is not None:
                watcher.follow(reference)
        if isinstance(job, TrainJob) and job.objective == "ppo":
            from oomph.referee import ppo

            ppo.train(raw_config, model, reference, job, watcher)
        elif isinstance(job, TrainJob):
            jobs.train(model, job, watcher, reference=reference)
        else:
            inference.infer(model, job, watcher, assistant=reference)
        stream, names = _cut(tracker.stream), tracker.names
    versions = {name: version(name) for name in TESTED}
    warned = [*_untested(versions), *(_other_kernel(job, kernels) if device == "cuda" else [])]
    return Trace(stream, names, **watcher.facts, kernels=_unique(kernels), versions=versions, warnings=tuple(warned))


def _takes_kernel(job: TrainJob) -> bool:
    """Tell whether a trainer takes log-probabilities of logits by TRL's kernel."""
    return job.objective_code == "trl" and job.objective not in ("distill", "ppo")


def _import_what_makes_constants(job: TrainJob | InferJob) -> None:
    """Import a method's libraries before anybody looks: the tensors of their modules are no job's."""
    if isinstance(job, TrainJob) and OBJECTIVES[job.objective].task == "embedding":
        from oomph.referee import embeddings

        embeddings.imported("sentence_transformer.trainer")
    if isinstance(job, TrainJob) and job.method not in ("full", "bitfit"):
        for name in ("peft", "bitsandbytes") if job.quantization != "none" else ("peft",):
            if find_spec(name):
                import_module(name)


def _cut(stream: Stream) -> Stream:
    """Return the stream up to the mark "end": what dies after it, the optimizer and its states, is not the job's."""
    end, _ = stream.marks[-1]
    events = stream.events[:end]
    return Stream(events, stream.marks[:-1], stream.labels)


@contextmanager
def collected() -> Iterator[None]:
    """Collect, then keep the cycle collector out: when a tensor dies must not depend on when it happens to run."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _kernels(job: TrainJob | InferJob, taken: list[str]) -> Any:
    from oomph.referee.fake import cuda_kernels

    asked = {"eager": "math", **dict.fromkeys(FLASH_ATTN, "flash")}.get(job.attention, job.attention)
    return cuda_kernels(asked, taken.append)


def _unique(words: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def _untested(versions: Mapping[str, str]) -> list[str]:
    return [
        f"{name} {found} is untested: the trace knows the details of {TESTED[name]}*."
        for name, found in versions.items()
        if not found.startswith(TESTED[name])
    ]


def _other_kernel(job: TrainJob | InferJob, taken: list[str]) -> list[str]:
    others = [kernel for kernel in _unique(taken) if kernel != job.attention]
    if others:
        return [f"{job.attention} attention cannot take every call here; torch takes {', '.join(others)}."]
    if job.attention != "eager" and not taken:
        return [f"this class never calls scaled_dot_product_attention; {job.attention} plays no part."]
    return []


def _packed(found: Trace) -> dict[str, Any]:
    """Return a trace as plain lists; words that repeat are numbered."""
    words: dict[str, int] = {}

    def number(word: str) -> int:
        return words.setdefault(word, len(words))

    stream = found.stream
    labels = [
        (ordinal, number(label.op), label.shape, number(label.dtype), number(label.instant))
        for ordinal, label in stream.labels.items()
    ]
    packed: dict[str, Any] = {name: value for name, value in vars(found).items() if name not in ("stream", "names")}
    packed |= {"stream": stream.events, "marks": stream.marks, "labels": labels}
    return packed | {"words": list(words), "names": list(found.names.items())}


def _unpacked(message: dict[str, Any]) -> Trace:
    words = message.pop("words")
    labels = {
        ordinal: Label(words[op], tuple(shape), words[dtype], words[instant])
        for ordinal, op, shape, dtype, instant in message.pop("labels")
    }
    events = [Event(*event) for event in message.pop("stream")]
    stream = Stream(events, [(position, name) for position, name in message.pop("marks")], labels)
    message["kernels"], message["warnings"] = tuple(message["kernels"]), tuple(message["warnings"])
    return Trace(stream, dict(message.pop("names")), **message)


def _answer(question: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Be the other process: trace and say how far it has come."""
    import torch
    import transformers  # noqa: F401  (imported before the memory is limited)

    isolated.limit_memory(MEMORY)
    torch.set_num_threads(1)
    job = (TrainJob if question["kind"] == "train" else InferJob)(**question["job"])
    return _packed(trace(question["config"], job, lambda done, total: send({"done": done, "total": total})))


if __name__ == "__main__":
    isolated.serve(_answer)
