"""How an optimizer goes through the parameters, and what it keeps for each."""

from __future__ import annotations

from oomph.job import TrainJob
from oomph.optimizer_names import FUSED, KINDS, TORCH, Kind
from oomph.planning.lever import Changes, Lever, Price, setting

BITS = 8
FOREACH = TrainJob.implementation  # what other libraries' optimizers, which have one way of their own, are told


def _kind(job: TrainJob) -> Kind:
    return KINDS.get(job.optimizer, Kind("", ""))


def _instead(name: str, of: frozenset[str], *, of_states: bool = False) -> Changes:
    """Return the changes from optimizers of these names to another; `of_states`: only from states of 16 or 32 bits."""

    def applies(job: TrainJob) -> bool:
        kind = _kind(job)
        return kind.name in of and not (of_states and kind.bits == BITS)

    return setting(applies, optimizer=name, implementation=FOREACH)


ADAM = frozenset({"adamw", "amsgrad"})
WITH_MOMENTS = frozenset({*ADAM, "ademamix"})

LEVERS = (
    Lever(
        "fused optimizer",
        Price.NOTHING,
        "No cost, usually faster: one kernel updates all parameters without the temporaries of foreach (fused=True).",
        "https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html",
        setting(lambda job: _kind(job).implementations == TORCH, implementation=FUSED[0]),
    ),
    Lever(
        "8-bit Adam",
        Price.ROUNDING,
        "As fast: both moments in 8 bits, block by block; published runs end at the same loss (bitsandbytes).",
        "https://arxiv.org/abs/2110.02861",
        _instead("adamw_8bit", ADAM, of_states=True),
    ),
    Lever(
        "paged 8-bit Adam",
        Price.SPEED,
        "The same numbers as 8-bit Adam; its states may lie in the host's memory, and come over PCIe at each step.",
        "https://arxiv.org/abs/2305.14314",
        setting(
            lambda job: _kind(job).name in ADAM and _kind(job).bits == BITS and not _kind(job).paged,
            optimizer="paged_adamw_8bit",
        ),
    ),
    Lever(
        "Adam in host memory",
        Price.SPEED,
        "The same numbers; gradients go to the host and weights come back at each step, which the CPU makes (torchao).",
        "https://github.com/pytorch/ao/tree/main/torchao/optim",
        setting(
            lambda job: _kind(job).rule == "adamw" and _kind(job).name in ADAM,
            optimizer="torchao-cpu-offload",
            implementation=FOREACH,
        ),
    ),
    Lever(
        "4-bit Adam",
        Price.ROUNDING,
        "Both moments in 4 bits, block by block, by compiled code (torchao); published runs end at the same loss.",
        "https://arxiv.org/abs/2309.01507",
        setting(
            lambda job: _kind(job).name in {*ADAM, "8bit"} and _kind(job).rule in ("adamw", "bnb", "torchao"),
            optimizer="adamw_torch_4bit",
            implementation=FOREACH,
        ),
    ),
    Lever(
        "APOLLO",
        Price.TRAINING,
        "States of a small random space scale each row of a gradient; published pre-training loses nothing to AdamW.",
        "https://arxiv.org/abs/2412.05270",
        _instead("apollo_adamw", ADAM),
    ),
    Lever(
        "AdaLomo",
        Price.TRAINING,
        "Weights are updated within the backward pass, by factored second moments: no accumulation, no clipping.",
        "https://arxiv.org/abs/2310.10195",
        _instead("adalomo", WITH_MOMENTS),
    ),
    Lever(
        "Adafactor",
        Price.TRAINING,
        "A row and a column of second moments per matrix, and no first ones; slower, and its learning rate is its own.",
        "https://arxiv.org/abs/1804.04235",
        _instead("adafactor", WITH_MOMENTS),
    ),
    Lever(
        "8-bit Lion",
        Price.TRAINING,
        "One moment instead of two; faster, but learning rate and weight decay must be found anew.",
        "https://arxiv.org/abs/2302.06675",
        _instead("lion_8bit", WITH_MOMENTS),
    ),
    Lever(
        "SGD with momentum",
        Price.TRAINING,
        "One state per weight instead of two; language models learn clearly worse with it than with Adam.",
        "https://arxiv.org/abs/2402.19449",
        _instead("sgd-momentum", WITH_MOMENTS),
    ),
    Lever(
        "SGD",
        Price.TRAINING,
        "No state at all; language models learn clearly worse with it than with Adam.",
        "https://arxiv.org/abs/2402.19449",
        _instead("sgd", frozenset({*WITH_MOMENTS, "sgd-momentum", "lion"})),
    ),
)
