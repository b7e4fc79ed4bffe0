"""What is alive while vLLM's profile run samples from made-up logits, by the way the version does it.

Letters: R rows (sequences of a step), V vocabulary; logits come in the model's dtype and go on in fp32. Sources:
v1/worker/gpu_model_runner.py _dummy_sampler_run, v1/sample/sampler.py, v1/sample/ops/topk_topp_sampler.py and
topk_topp_triton.py of vLLM 0.12.0, 0.17.0 and 0.19.0; v1/worker/gpu/sample/ of 0.25.1 and 0.33.0;
model_executor/layers/sampler.py of 0.6.6. torch: aten/src/ATen/native/cuda/Sort.cu, SortStable.cu.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oomph.engines.vllm.activations import LONG, WIDE

if TYPE_CHECKING:
    from oomph.engines.vllm.activations import Run, Tensors, Version
    from oomph.engines.vllm.shapes import Shapes

PIVOTS: Version = (0, 17)  # top-k and top-p by a kernel that looks for a threshold; before, by sorting
FLASHINFER: Version = (0, 21)  # VLLM_USE_FLASHINFER_SAMPLER is on
ALL_PARAMETERS: Version = (0, 33)  # the new runner samples with all parameters too
FEWEST_PIVOTED = 8  # rows below which PIVOTS sorts
FEWEST_SEGMENTS = 128  # Sort.cu: fewer rows are sorted as one, numbers with the rows they are of
FLASHINFER_CAPABILITY = (7, 5)  # FlashInferBackend.supports_compute_capability


def sampling(of: Shapes, run: Run) -> Tensors:
    """Return what is alive at the worst of sampling, logits and hidden states included; {} where nothing is sampled.

    Llama 3.1 8B, 1024 rows, bf16 (vLLM 0.19): 250.5 MiB of logits, 501 three times, 132 rows of 501 KiB.
    """
    if not of.generates or not run.last:
        return {}
    rows = run.rows * of.hidden * run.width
    found = {
        "hidden states": run.tokens * of.hidden * run.width,
        "hidden states that are sampled from": rows,
        "logits": run.rows * of.padded_vocab * run.width,
    }
    if run.second_core and not run.second_runner:
        found["random hidden states"] = rows
    return found | _method(of, run)


def _method(of: Shapes, run: Run) -> Tensors:
    if run.second_runner:
        return _new_runner(of, run)
    if run.version >= FLASHINFER and not _old_card(run):
        return _flashinfer(of, run)
    if run.version >= PIVOTS and run.rows >= FEWEST_PIVOTED:
        return {**_upcast(of, run), **_pivots(of, run), **_drawn(of, run)}
    return _sorted(of, run)


def _numbers(of: Shapes, run: Run) -> int:
    return run.rows * of.vocab


def _upcast(of: Shapes, run: Run) -> Tensors:
    """Return the copy in fp32; logits that are fp32 are taken as they are."""
    return {"logits in fp32": _numbers(of, run) * WIDE} if run.width < WIDE else {}


def _drawn(of: Shapes, run: Run) -> Tensors:
    """Return the probabilities, and the noise they are divided by to draw from them."""
    one = _numbers(of, run) * WIDE
    return {"probabilities": one, "exponential noise": one}


def _pivots(of: Shapes, run: Run) -> Tensors:
    """Return a row for each program of the kernel: as many as there are multiprocessors, and no more than rows.

    The buffer is made for the next power of two of programs, and kept.
    """
    processors = run.card.multiprocessors
    programs = min(processors, run.rows)
    made = min(1 << (programs - 1).bit_length(), processors)
    return {"rows of candidates": made * of.vocab * WIDE}


def _sorted(of: Shapes, run: Run) -> Tensors:
    """Return what is alive inside torch.sort of the logits, values and positions.

    From 128 rows on cub sorts each row: positions before the sort, and a second copy of numbers and positions. Fewer
    rows are sorted as one, with two arrays of pairs (position, row).
    """
    count = _numbers(of, run)
    found = {**_upcast(of, run), "sorted logits": count * WIDE, "their positions": count * LONG}
    if run.rows >= FEWEST_SEGMENTS:
        found["positions before the sort"] = count * LONG
    else:
        found["pairs of position and row, twice"] = 2 * count * LONG
        found["keys of the sort"] = count * WIDE
    return {**found, "second copy of the sort": count * (WIDE + LONG)}


def _flashinfer(of: Shapes, run: Run) -> Tensors:
    """Return what FlashInfer's top_k_top_p_sampling_from_logits holds: logits with only the top k, probabilities."""
    one = _numbers(of, run) * WIDE
    return {**_upcast(of, run), "logits of the top k": one, "probabilities": one}


def _new_runner(of: Shapes, run: Run) -> Tensors:
    """Return what the second model runner holds: it samples without any parameter, from 0.33 on with all as well."""
    if run.version < ALL_PARAMETERS:
        return {}
    copy = {"logits in fp32": _numbers(of, run) * WIDE}  # made whatever the dtype is
    if _old_card(run):
        return {**copy, **_pivots(of, run)}
    return {**_flashinfer(of, run), **copy}


def _old_card(run: Run) -> bool:
    """Tell whether FlashInfer has no kernels for the card."""
    return run.card.capability is not None and run.card.capability < FLASHINFER_CAPABILITY
