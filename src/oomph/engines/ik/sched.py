"""ik_llama.cpp's scheduler: an older form of llama.cpp's, which asks a GPU whether it computes an operation.

Source: ggml/src/ggml-backend.cpp and ggml-cuda.cu (supports_op, offload_op) of ik_llama.cpp 8337e4cd, and those of
18eeb489 (July 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from oomph.engines.ik.setup import IkBuild
from oomph.engines.llamacpp.ggml import F16, Graph, Tensor
from oomph.engines.llamacpp.sched import OFFLOAD_FROM, Scheduler, Split

# Operations that may write their result over an operand (ggml_op_can_inplace); the fused ones may not.
IN_PLACE = frozenset(
    ("SCALE", "ADD", "ADD_ID", "SUB", "MUL", "DIV", "SQR", "SQRT", "LOG", "UNARY", "ROPE", "RMS_NORM", "SOFT_MAX")
)
MATRICES = frozenset(("MUL_MAT", "MUL_MAT_ID", "MOE_FUSED_UP_GATE", "FUSED_UP_GATE"))
HEADS = (64, 80, 96, 112, 128, 192, 256)  # that flash attention has kernels for (fattn-mma-f16.cu)
LATENT_HEADS = (320, 512, 576)  # the same where the values are a part of the keys (fattn.cu)
WITH_EXPERTS = {"MUL_MAT_ID": 2, "MOE_FUSED_UP_GATE": 3}  # where the numbers of the chosen experts are


@dataclass
class IkScheduler(Scheduler):
    """One pass over a graph, by the rules of a build."""

    build: IkBuild = field(default_factory=IkBuild)

    def _by_place(self, tensor: Tensor) -> int | None:
        device = tensor.owner.buffer
        if device is not None:
            return self.devices.index(device)
        if tensor.input:
            return self.cpu
        for source in tensor.src:
            if source.weight:
                assert source.buffer is not None
                place = self.devices.index(source.buffer)
                if place == self.cpu:
                    return 0 if self._offloads(tensor) else place
                return place if supports(tensor, self.build) else None
        return None

    def _offloads(self, tensor: Tensor) -> bool:
        if not self.op_offload or tensor.op == "GET_ROWS" or not supports(tensor, self.build):
            return False
        at = WITH_EXPERTS.get(tensor.op)
        if at is None:
            return tensor.ne[1] >= OFFLOAD_FROM
        tokens, used, experts = tensor.ne[2], tensor.src[at].ne[0], tensor.src[0].ne[2]
        each = experts if self.build.by_experts else used
        return tokens >= OFFLOAD_FROM and tokens * used >= OFFLOAD_FROM * each

    def _expand(self, nodes: Sequence[Tensor], skip_cpu: bool) -> None:
        current: int | None = None
        for node in nodes:
            found = self.on.get(node)
            if found is not None:
                current = None if skip_cpu and found == self.cpu else found
            elif current is not None and (current == self.cpu or supports(node, self.build)):
                self.on[node] = current

    def _most_inputs(self, node: Tensor) -> int:
        return super()._most_inputs(node) if supports(node, self.build) else self.cpu

    def _split(self, graph: Graph) -> list[Split]:
        self.met: list[Tensor] = []
        return super()._split(graph)

    def _meet(self, source: Tensor) -> None:
        if source.input and source not in self.met:
            self.met.append(source)

    def _begins(self, node: Tensor, current: Split) -> bool:
        """Whether a node begins a split: it reads weights of another device, or more copies than a split may have."""
        here = current.backend
        full = len(current.inputs) == self.build.split_inputs
        return any(
            (s.weight and self.on[s] != here)
            or (full and self.on[s] != here and (s, here) not in self.copies and not self._readable(s, here))
            for s in node.src
        )


def supports(tensor: Tensor, build: IkBuild) -> bool:
    """Tell whether CUDA computes an operation, of those that it does not always; the GPU is Ampere's or newer."""
    if tensor.op in MATRICES:
        kind = tensor.src[0].type
        plain = "_R" not in kind.name and kind.name != "Q8_KV"
        return (plain or kind.name in build.interleaved) and not (
            tensor.op == "MUL_MAT" and kind.name in ("F32", "BF16") and tensor.src[1].type is F16
        )
    return tensor.op != "FLASH_ATTN_EXT" or _has_kernel(tensor, build.late)


def _has_kernel(attention: Tensor, late: bool) -> bool:
    """Whether there is a kernel of flash attention for these heads and types of the cache."""
    q, k, v = attention.src[:3]
    key, value, kinds = k.ne[0], v.ne[0], (k.type.name, v.type.name)
    if late and key != value:
        return (key, value) == (192, 128) or (q.ne[0] in LATENT_HEADS and q.ne[2] // k.ne[2] % 4 == 0)
    if late:
        return key in HEADS
    if q.ne[0] == 128:
        return True
    if (key, value) == (256, 256):
        return all(kind in ("F16", "Q8_0") for kind in kinds)
    if (key, value) == (192, 128):
        return kinds in (("F16", "F16"), ("Q8_0", "Q8_0"))
    if (key, value) == (576, 512):
        return q.ne[2] // k.ne[2] % 16 == 0
    return key <= 256 and ((q.ne[0] == 64 and k.type is F16) or kinds == ("F16", "F16"))
