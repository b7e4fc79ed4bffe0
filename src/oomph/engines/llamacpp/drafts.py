"""A draft model beside the model: weights, cache and buffers of its own, for the same slots and tokens.

It is loaded as the model is, by flags of its own (-ngld, -ctkd, -ctvd), on the same GPUs. What guesses tokens ahead has
the model give logits of each guess, so that its compute buffer is larger. Source: common/speculative.cpp
(common_base_params_to_speculative, common_speculative_init_result, common_speculative_n_max) of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.engines.llamacpp.printing import printed
from oomph.engines.llamacpp.served import SOURCE, Known, Served, known
from oomph.errors import OomphError, UnsupportedError
from oomph.ledger import Item, Printed

if TYPE_CHECKING:
    from oomph.engines.base import Amount, Share

HOST = -1
OTHER_DRAFTS = frozenset({"eagle3", "dflash", "dspark"})  # heads on the model's hidden states


def draft_of(served: Served) -> Served:
    """Return the draft of a job on the same GPUs; raises UnsupportedError where it is not known."""
    model = _known(served.job)
    if model.sizes.arch in OTHER_DRAFTS:
        raise UnsupportedError(f"A draft of {model.sizes.arch} is not modelled.", "Leave -md out: the rest is.")
    return replace(
        served, file=model.file, sizes=model.sizes, hparams=model.hparams, job=_job(served), adapters=(), overrides=()
    )


def _job(served: Served) -> LlamaCppJob:
    """Return the job of the draft: as many tokens as the model's cache has, flags of its own."""
    job = served.job
    ctx_size = served.sizes.n_ctx_train if job.ctx_size == 0 else job.ctx_size
    return replace(
        job, draft="", spec_type="", ctx_size=ctx_size, gpu_layers=job.draft_gpu_layers, override_tensor="",
        cpu_moe=False, n_cpu_moe=0, cache_type_k=job.draft_cache_type_k, cache_type_v=job.draft_cache_type_v,
        cache_ram=0, lora="", lora_scaled="", control_vector="", control_vector_scaled="", mmproj="",
    )  # fmt: skip


def _known(job: LlamaCppJob) -> Known:
    """Return the file of the draft: a GGUF file as it is, a model of the catalogue in the format that its name tells,
    else in the job's."""
    from oomph.answer import subject
    from oomph.engines import engine
    from oomph.engines.model_names import by_name

    stored = job.format
    try:
        try:
            found = subject(job.draft, offline=True)
        except OomphError:
            named = by_name(job.draft, engine("llama.cpp"))
            if named is None:
                raise
            found, stored = subject(named.model, offline=True), named.format or job.format
        return known(found, None if found.source.header is not None else stored)
    except OomphError as error:
        raise UnsupportedError(
            f"The draft {job.draft[:60]!r} is not known here: {error.problem}",
            "Name it as the catalogue does, with its format behind a colon, or point -md to its .gguf file.",
        ) from None


def beside(share: Share, draft: Served, at: int) -> Share:
    """Return what a device holds with the draft; `at` is its number, -1 the host's."""
    n_bytes = draft.loaded.host_bytes if at == HOST else draft.loaded.gpu_bytes.get(at, 0)
    weights = Item("weights of the draft", "weights", n_bytes, source="rule", evidence=f"{SOURCE}: load_tensors")

    def needs(context: Amount, concurrency: Amount) -> Amount:
        return share.needs(context, concurrency) + draft.needs(at, context, concurrency)

    def held(context: int, concurrency: int) -> tuple[Item, ...]:
        more = (replace(item, name=f"{item.name} of the draft") for item in draft.held(at, context, concurrency))
        return (*share.held(context, concurrency), *more)

    def least(context: int, concurrency: int) -> int:
        return (share.least(context, concurrency) if share.least else 0) + draft.least(at, context, concurrency)

    room = None if share.room_bytes is None else share.room_bytes - n_bytes
    return replace(
        share, items=(*share.items, weights), needs=needs, held=held, room_bytes=room, least=share.least and least
    )


def lines_of(draft: Served, context: int) -> tuple[Printed, ...]:
    """Return the lines that are logged of the draft."""
    return tuple(
        replace(line, name=f"draft_{line.name}", text=f"of the draft: {line.text}") for line in printed(draft, context)
    )
