"""What the model sees: how long sequences are, and how batches are made of them."""

from __future__ import annotations

from collections.abc import Iterable

from oomph.job import TrainJob
from oomph.model import Model
from oomph.objectives import KINDS as OBJECTIVES
from oomph.planning.lever import Lever, Price, halving, setting

SHORTEST = 256  # tokens; below it few texts are whole
FEWEST = 2  # pairs that can be told apart


def _fewer_texts(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    return halving("batch", FEWEST)(job, model) if OBJECTIVES[job.objective].task == "embedding" else ()


LEVERS = (
    Lever(
        "no dropout",
        Price.TRAINING,
        "Faster; without it a model overfits sooner when it sees small data several times.",
        "https://jmlr.org/papers/v15/srivastava14a.html",
        setting(dropout=False),
    ),
    Lever(
        "no padding mask",
        Price.DATA,
        "Faster; batches must then be of sequences of one length, or packed, so that flash attention can be used.",
        "https://arxiv.org/abs/2407.09105",
        setting(lambda job: job.padding, padding=False, attention="flash"),
    ),
    Lever(
        "packing without position ids",
        Price.DATA,
        "Faster with flash attention; the sequences of a row then see each other, as in most pretraining.",
        "https://arxiv.org/abs/2407.09105",
        setting(lambda job: job.packing, packing=False, padding_free=False, packed_by="positions", attention="flash"),
    ),
    Lever(
        "fewer texts in a batch",
        Price.DATA,
        "Faster steps; each anchor is told from fewer other texts, of which embedding models learn less.",
        "https://arxiv.org/abs/2101.06983",
        _fewer_texts,
    ),
    Lever(
        "shorter sequences",
        Price.DATA,
        "Faster; longer texts are cut, and what depends on more context is not learned.",
        "https://arxiv.org/abs/2404.10830",
        halving("seq_len", SHORTEST),
    ),
)
