"""What ik_llama.cpp builds a graph from beside what llama.cpp does: its own flags, and what its builds do otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from oomph.engines.llamacpp.graph_setup import GraphSetup

# Types of weights in rows of four or eight that CUDA multiplies with (pull requests 461, 462, 492 and 494).
INTERLEAVED = frozenset(
    ("IQ2_K_R4", "IQ3_K_R4", "IQ4_K_R4", "IQ5_K_R4", "IQ4_KS_R4", "IQ5_KS_R4", "IQ1_S_R4", "IQ1_M_R4")
)


@dataclass(frozen=True)
class IkBuild:
    """How a build differs from the others, as far as compute buffers go. The newest is the default.

    `by_experts`: a GPU copies experts in from the host where enough tokens meet each of them (pull request 520, June
    2025), else where the batch has enough tokens. `least_rows`: rows that a mask is padded to.
    `split_inputs`: tensors that are copied for one split at most. `copies`: batches under way on several GPUs.
    `interleaved`: types in rows of four or eight that CUDA multiplies with. `late`: graphs are those of late.py.
    """

    by_experts: bool = True
    least_rows: int = 16
    split_inputs: int = 64
    copies: int = 1
    interleaved: frozenset[str] = INTERLEAVED
    late: bool = True


# As most users built it: with one batch under way, GGML_SCHED_MAX_COPIES=1.
SUMMER_2025 = IkBuild(least_rows=64, split_inputs=10, late=False)
SPRING_2025 = replace(SUMMER_2025, by_experts=False, interleaved=frozenset())


@dataclass(frozen=True)
class IkSetup(GraphSetup):
    """A model in a context of ik_llama.cpp.

    `mla` as -mla; `attention_batch` MiB of scores at a time, 0 for all; `fused_moe`: gate and up of experts
    in one operation; `fused_up_gate`: those of other layers; `fused_sum`: experts' weights and sum.
    `most_outputs` tokens of a batch give logits, 0: all. `hadamard`: keys and values are turned before they are kept.
    """

    mla: int = 0
    attention_batch: int = 0
    fused_moe: bool = True
    fused_up_gate: bool = True
    fused_sum: bool = True
    most_outputs: int = 0
    hadamard: tuple[bool, bool] = (False, False)
    of_ik: IkBuild = IkBuild()
