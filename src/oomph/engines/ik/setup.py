"""What ik_llama.cpp builds a graph from beside what llama.cpp does: its own flags, and what its builds do otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from oomph.engines.llamacpp.ggml import F32
from oomph.engines.llamacpp.graph_setup import GraphSetup
from oomph.formats.gguf_types import BY_NAME, GgmlType
from oomph.units import MIB

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
class IkFlags:
    """What ik_llama.cpp is told beside llama.cpp's flags.

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


@dataclass(frozen=True)
class IkSetup(IkFlags, GraphSetup):
    """A model in a context of ik_llama.cpp. -amb is held against `held_cells`, which are those of the cache, whatever
    `cells` a graph is built for."""

    held_cells: int = 0

    @property
    def n_tokens(self) -> int:
        """Tokens of the batch that memory is reserved for."""
        return min(self.n_ctx, self.n_ubatch)

    def head_by_head(self, il: int) -> bool:
        """Whether a layer's scores without flash attention are more than -amb: each head's are computed for itself."""
        sizes = self.hparams
        scores = self.held_cells * self.n_tokens * sizes.n_head[il] * F32.size // MIB
        return 0 < self.attention_batch < scores and sizes.n_head[il] == sizes.n_head_kv[il] and not self.flash_attn


@dataclass(frozen=True)
class Latent:
    """Widths of latent attention: heads, rotary and plain part of a head's key, a head's value, the latent."""

    heads: int
    rope: int
    plain: int
    value: int
    rank: int

    @classmethod
    def of(cls, setup: IkSetup, il: int = 0) -> Latent:
        """Return those of a layer, by its tensors."""
        tensors, heads, rope = setup.tensors, setup.hparams.n_head[il], setup.hparams.rope_dim
        q = tensors.get(f"blk.{il}.attn_q_b.weight") or tensors[f"blk.{il}.attn_q.weight"]
        value = tensors[f"blk.{il}.attn_output.weight"].ne[0] // heads
        return cls(heads, rope, q.ne[1] // heads - rope, value, tensors[f"blk.{il}.attn_kv_a_norm.weight"].ne[0])

    def at_once(self, setup: IkSetup) -> int:
        """How many heads' keys and values are made at a time, so that they take no more than -amb.

        Older builds halve their number until they do.
        """
        taken, found = self.heads * (self.plain + self.value) * setup.held_cells * F32.size // MIB, self.heads
        limit = setup.attention_batch
        if setup.of_ik.late:
            parts = (each for each in range(2, self.heads) if self.heads % each == 0 and taken // each <= limit)
            return self.heads if not 0 < limit < taken else self.heads // next(parts, self.heads)
        while 0 < limit < taken and found % 2 == 0:
            found, taken = found // 2, taken // 2
        return found

    def scored_at_once(self, setup: IkSetup) -> int:
        """How many heads' scores on the latent are computed at a time."""
        limit = setup.attention_batch
        scores = setup.held_cells * setup.n_tokens * self.heads * F32.size // MIB
        if limit <= 0 or limit >= scores:
            return self.heads
        return -(-self.heads // min(-(-scores // limit), self.heads))


def of_both(k: GgmlType, v: GgmlType) -> GgmlType:
    """Return the type of the map to keys and values that is made of two when a model is loaded (llm_prepare_mla)."""
    return k if k is v and k.name in ("BF16", "F16") else BY_NAME["Q8_0"]


def of_keys(both: GgmlType) -> GgmlType:
    """Return the type of the map of queries that is made of the one to keys and values."""
    return BY_NAME["Q8_0"] if both.block > 1 else both


def divisions(setup: IkSetup) -> tuple[int, ...]:
    """Return in how many parts attention is computed, which is all that makes a graph depend on the context."""
    if not setup.attention_batch:
        return ()
    if setup.mla:
        latent = Latent.of(setup)
        return latent.at_once(setup), latent.scored_at_once(setup)
    return tuple(setup.head_by_head(il) for il in range(setup.hparams.n_layer))
