"""The pieces of ik_llama.cpp's graphs as its newest builds make them: more operations in one, and in another order.

Source: src/llama-build-context.cpp of ik_llama.cpp 8337e4cd (llm_build_mul_mat_qkv, llm_build_ffn, llm_build_moe_ffn).
"""

from __future__ import annotations

from dataclasses import dataclass

from oomph.engines.ik.parts import IkBuilder
from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import F16, F32, Tensor
from oomph.engines.llamacpp.placing import aligned


@dataclass
class LateBuilder(IkBuilder):
    """A graph under construction, as builds of 2026 have it."""

    def mask(self) -> Tensor:
        """The mask of the cache, made as attention takes it."""
        rows = aligned(self.n_tokens, self.setup.of_ik.least_rows)
        kind = F16 if self.setup.flash_attn else F32
        return ggml.graph_input(kind, self.setup.cells, rows, name="KQ_mask")

    def projections(self, x: Tensor, il: int) -> list[Tensor]:
        """Queries, keys and values, one after the other."""
        names = ("attn_q", "attn_k", "attn_v")
        found = [ggml.mul_mat(self.the(name, il), x) for name in names]
        for each in found:
            self.graph.expand(each)
        for at, name in enumerate(names):
            if self.weight(name, il, "bias") is not None:
                found[at] = self.graph.expand(self.plus(found[at], name, il))
        return found

    def kv(self, mask: Tensor, il: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention over the cache; what is kept is turned first, if that was asked for."""
        keys, values = self.setup.hadamard
        if keys:
            q, k = ggml.like(q, "HADAMARD"), ggml.like(k, "HADAMARD")
        return super().kv(mask, il, q, k, ggml.like(v, "HADAMARD") if values else v)

    def attended(self, out: Tensor) -> Tensor:
        """What flash attention gives, turned back."""
        return ggml.like(out, "HADAMARD") if self.setup.hadamard[1] else out

    def ffn(self, x: Tensor, il: int, suffix: str = "", gated: str = "parallel") -> Tensor:
        """A feed-forward layer whose gate and up maps are one operation, where both are quantised alike."""
        up, gate = self.the("ffn_up" + suffix, il), self.the("ffn_gate" + suffix, il)
        biased = any(self.weight(name + suffix, il, "bias") is not None for name in ("ffn_up", "ffn_gate"))
        alike = up.type.block > 1 and up.type is gate.type and up.ne == gate.ne
        if not self.setup.fused_up_gate or biased or not alike:
            return super().ffn(x, il, suffix, gated)
        hidden = ggml.new(F32, up.ne[1], x.ne[1], op="FUSED_UP_GATE", src=(up, gate, x))
        return self.mm("ffn_down" + suffix, hidden, il)

    def add_feed_forward(self, x: Tensor, normed: Tensor, il: int, norm: bool, scale: bool) -> Tensor:
        """The feed-forward layer or the experts, and what comes in added to them before shared experts are."""
        if self.weight("ffn_gate_inp", il) is None:
            return super().add_feed_forward(x, normed, il, norm, scale)
        routed = self.experts(normed, il, norm, scale)
        if self.setup.arch == "llama":  # Mixtral: build_llama has its norm added
            return ggml.like(routed, "ADD", normed)
        routed = self.graph.expand(ggml.like(routed, "ADD", x))
        if self.weight("ffn_up_shexp", il) is None:
            return routed
        return ggml.like(routed, "ADD", self.ffn(normed, il, "_shexp"))

    def weighed(self, experts: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of what experts gave."""
        if not self.setup.fused_sum:
            return super().weighed(experts, weights)
        return ggml.new(F32, experts.ne[0], experts.ne[2], op="MUL_MULTI_ADD", src=(experts, weights))

    def gated_experts(self, x: Tensor, chosen: Tensor, weights: Tensor, il: int) -> Tensor:
        """What chosen experts' gate and up maps make of tokens, once the weights are there."""
        self.graph.expand(weights)
        up, gate = self.the("ffn_up_exps", il), self.the("ffn_gate_exps", il)
        if self.setup.fused_moe and up.type is gate.type:
            return super().gated_experts(x, chosen, weights, il)
        both = [self.graph.expand(ggml.mul_mat_id(each, x, chosen)) for each in (up, gate)]
        return ggml.like(both[1], "FUSED_MUL_UNARY", both[0])
