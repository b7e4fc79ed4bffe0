"""What vLLM's profile run finds: the peak of its activations, memory beside torch, and what CUDA graphs will take.

`torch_peak_increase` of the profile run is the most of a few instants, each a list of tensors (activations.py,
sampling.py): compiling the first piece, the fullest of a layer, sampling. Memory beside torch is measured, graphs in
part (graphs.py). Source: utils/mem_utils.py, v1/worker/gpu_worker.py determine_available_memory of vLLM 0.19.0 and
0.33.0; worker/model_runner.py profile_run of 0.6.6 for the first core.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oomph import dtypes
from oomph.constants import constant
from oomph.engines.vllm import activations as acts
from oomph.engines.vllm.cards import card, largest
from oomph.engines.vllm.graphs import Graphs, capture_sizes, graphs
from oomph.engines.vllm.held import PLAIN, Kernel, mxfp4_kernel
from oomph.engines.vllm.job import second_core
from oomph.engines.vllm.runner import second_runner
from oomph.engines.vllm.sampling import sampling
from oomph.engines.vllm.shapes import Shapes, shapes
from oomph.stream import ROUND
from oomph.units import MIB

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.engines.vllm.activations import Run, Tensors, Version
    from oomph.engines.vllm.settings import Compilation

NEWEST: Version = (2**16,)  # of a build that says no version
KERNELS_GREW: Version = (0, 11)  # less lay beside torch in 0.10.2 than in 0.19.0; in between it was not seen
KINDS = frozenset({"", "early"})  # of what was seen, beside that of one kind of card
BITSANDBYTES, MXFP4 = ("bitsandbytes", "nf4", "nf4-dq", "fp4"), ("mxfp4",)
UNSPLIT = MIB  # kSmallSize: what is left of a block up to here stays with the tensor that took it
PAGE, INDEX = 16, dtypes.BITS["int32"] // 8  # tokens of a block of keys; bytes of its number in a table
MASKED = dtypes.BITS["int32"]  # words of a prompt that one number marks


@dataclass(frozen=True)
class Profile:
    """Bytes on one device; `_safe_bytes` count what is not known exactly at its largest.

    `activation_bytes` is the increase of torch's peak over what was there before the run, the largest of `instants`
    (name, bytes); `alive` are the tensors of that one. `buffer_bytes` is what the runner allocated before the run: in
    no figure that vLLM 0.25 and before budget, in what it found consumed from 0.27 on.
    """

    activation_bytes: int
    activation_safe_bytes: int
    non_torch_bytes: int
    non_torch_safe_bytes: int
    graph_bytes: int
    graph_safe_bytes: int
    instants: tuple[tuple[str, int], ...]
    alive: tuple[tuple[str, int], ...]
    buffer_bytes: int
    non_torch_evidence: str = ""

    @property
    def peak(self) -> str:
        """The instant at which most is alive."""
        return max(self.instants, key=lambda instant: instant[1])[0]


def profile(
    found: Subject,
    *,
    tokens: int,
    seqs: int,
    dtype: str,
    tensor_parallel: int,
    pipeline_parallel: int,
    version: Version,
    format: str | None,
    enforce_eager: bool,
    device: Device | None,
    context: int,
    stage: int | None = None,
    mxfp4: Kernel | None = None,
    compilation: Compilation | None = None,
    guesses: int = 0,
    images: int | None = None,
) -> Profile:
    """Return the profile of a model served in steps of `tokens` tokens and `seqs` sequences at most.

    `stage` of a pipeline, by default the last: it samples, and is handed hidden states, so it is the fullest. No
    version is the newest; `mxfp4` is the kernel of experts in that format, by default the device's; `guesses` are
    tokens guessed ahead of each sequence, `images` those that a prompt may have. Raises UnsupportedError for a model
    without decoder layers, or with an encoder that is not modelled.

    >>> from oomph import sources
    >>> from oomph.answer import subject
    >>> from oomph.devices import find
    >>> found = profile(subject("llama-3.1-8b"), tokens=8192, seqs=1024, dtype="bf16", tensor_parallel=1,
    ...     pipeline_parallel=1, version=(0, 19), format=None, enforce_eager=False, device=find("h100"), context=8192)
    >>> found.peak, round(found.activation_bytes / 2**30, 2)
    ('sampling', 1.88)
    """
    of = shapes(found.model, tensor_parallel)
    where = pipeline_parallel - 1 if stage is None else stage
    of_card = card(device)
    version = version or NEWEST
    second = second_core(version, of_card.capability)
    method = _method(found, format)
    rows = min(seqs, tokens)
    if not second and of.tower:  # as many sequences as there is room for the largest image of each
        rows = max(1, min(rows, tokens // (of.tower.item_tokens * max(1, images or 1))))
    run = acts.Run(
        tokens=tokens,
        rows=rows,
        seqs=seqs,
        width=dtypes.BITS[dtype] // 8,
        context=context,
        version=version,
        second_core=second,
        compiled=second and not enforce_eager and (compilation is None or compilation.compiled),
        card=of_card,
        first=where == 0,
        last=where == pipeline_parallel - 1,
        transient=method in MXFP4 and (mxfp4 or mxfp4_kernel(device, version)) != "marlin",
        dequantised=method in BITSANDBYTES,
        images=images,
        second_runner=second_runner(found.model, version, bool(method) and method not in PLAIN),
    )
    instants = {name: tensors for name, tensors in _instants(of, run).items() if tensors}
    sums = {name: _sum(tensors) for name, tensors in instants.items()}
    peak = max(sums, key=lambda name: sums[name])
    beside = _non_torch(tensor_parallel, pipeline_parallel, run)
    decoder = found.model.decoder_type
    sizes = () if enforce_eager else capture_sizes(run.seqs, decoder, run.version, compilation, guesses)
    captured = _captured(of, run, sizes, pipeline_parallel)
    return Profile(
        sums[peak],
        _safe(of, replace(run, card=largest(device))),
        *beside[:2],
        captured.n_bytes,
        captured.safe_bytes,
        tuple(sums.items()),
        tuple(instants[peak].items()),
        _buffers(of, run),
        beside[2],
    )


def _instants(of: Shapes, run: Run) -> Mapping[str, Tensors]:
    """Return the tensors that are alive at each instant, those that live through all that follows included."""
    handed, images = acts.received(of, run), acts.images(of, run)
    kept = {**acts.products(of, run), **handed, **images}
    through = {**kept, **acts.kept_workspace(of, run)}
    layer = {
        "MLP": acts.mlp(of, run),
        "mixture of experts": acts.mixture(of, run),
        "input of attention": acts.mixer(of, run),
        "latent attention": acts.latent(of, run),
    }
    return {
        "encoding images": acts.tower(of, run),
        "compiling the lookup of words": acts.lookup_tried(of, run),
        **{name: {**through, **tensors} for name, tensors in layer.items() if tensors},
        "sampling" if of.generates and run.last else "hidden states": {**through, **_after(of, run)},
    }


def _after(of: Shapes, run: Run) -> Tensors:
    """Return what is alive once the pass is over."""
    return sampling(of, run) or {"hidden states": run.tokens * of.hidden * run.width}


def _sum(tensors: Tensors) -> int:
    """Return the bytes of tensors as torch counts them, in blocks of 512."""
    return sum(-(-n_bytes // ROUND) * ROUND for n_bytes in tensors.values())


def _safe(of: Shapes, run: Run) -> int:
    """Return the most that the instants may take: the largest card of its kind, blocks that are not split to size, and
    at each instant a kernel that is being timed."""
    timed = run.card.cache_bytes if run.compiled else 0
    unbiased = 0 if of.biased else run.card.lt_bytes
    sums = []
    for tensors in _instants(of, run).values():
        large = sum(n_bytes > UNSPLIT for n_bytes in tensors.values())
        sums.append(_sum(tensors) + large * UNSPLIT + timed + unbiased)
    return max(sums)


def _method(found: Subject, format: str | None) -> str:
    """Return the quantisation that is asked for, else what the config names, '' for none."""
    if format:
        return format
    asked = (found.source.config or {}).get("quantization_config")
    method = asked.get("quant_method") if isinstance(asked, Mapping) else None
    return method if isinstance(method, str) else ""


def _buffers(of: Shapes, run: Run) -> int:
    """Return what the runner allocates before the profile run: input embeddings, tables of blocks, counts of words.

    The new runner keeps, for penalties, how often each sequence has each word.
    """
    embeddings = run.tokens * of.hidden * run.width
    tables = run.seqs * -(-run.context // PAGE) * INDEX
    if not run.second_runner:
        return embeddings + tables
    counts = run.seqs * (of.vocab + -(-of.vocab // MASKED)) * INDEX
    return (embeddings if of.tower else 0) + 2 * tables + counts


def _non_torch(tp: int, pp: int, run: Run) -> tuple[int, int, str]:
    """Return what is taken beside torch by the end of the profile run, the most, and where that was seen."""
    card = ".".join(map(str, run.card.capability or ()))
    rows = [row for row in constant("vllm_non_torch")["seen"] if row["parallel"].partition(", ")[2] in KINDS | {card}]
    kinds = _kinds(tp, pp, run, card)
    kind = next(each for each in kinds if any(row["parallel"] == each for row in rows))
    own = [row for row in rows if row["parallel"] == kind]
    values = sorted((row["low"] + row["high"]) // 2 for row in own for _ in range(row["n"]))
    seen = "; ".join(dict.fromkeys(row["source"] for row in own))
    word = re.match(r"\w+", kind)
    high = max(row["high"] for row in rows if word and row["parallel"].startswith(word[0]))
    return values[(len(values) - 1) // 2], high, f"measured, n={len(values)}: {seen}"


def _kinds(tp: int, pp: int, run: Run, card: str) -> tuple[str, ...]:
    """Return under what such a run was seen, the closest first."""
    if tp > 1:
        return f"tensor {tp}, {card}", f"tensor {tp}", "tensor 4"
    if pp > 1:
        return ("pipeline",)
    if not run.second_core:
        return ("first core",)
    return ("one, early", "one") if run.version < KERNELS_GREW else ("one",)


def _captured(of: Shapes, run: Run, sizes: tuple[int, ...], pp: int) -> Graphs:
    one = replace(run, tokens=1, rows=1, compiled=True, dequantised=False)
    fullest = {**acts.mlp(of, one), **({} if of.ffn else acts.mixture(of, one))}
    token = sum(n_bytes for name, n_bytes in fullest.items() if name != acts.TIMING)
    sizes = tuple(size for size in sizes if size <= run.tokens)
    return graphs(sizes, -(-of.layers // pp), token, acts.dequantised_map(of, run))
