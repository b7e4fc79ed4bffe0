"""The pieces that ik_llama.cpp's models share: norms, projections, experts and attention in operations of its own.

A `Builder` method adds what the function of that name adds (llm_build_norm, llm_build_ffn, llm_build_moe_ffn,
llm_build_kv), in that order. Source: src/llama-build-context.cpp of ik_llama.cpp 8337e4cd, src/llama.cpp of 18eeb489.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from oomph.engines.ik.setup import IkSetup
from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import F16, F32, I32, Graph, Tensor
from oomph.engines.llamacpp.graph_experts import GATES
from oomph.engines.llamacpp.graph_parts import Builder
from oomph.engines.llamacpp.graph_setup import CPU
from oomph.engines.llamacpp.placing import aligned


@dataclass
class IkBuilder(Builder):
    """A graph under construction, for a batch of `n_tokens`, all of which give logits."""

    setup: IkSetup

    def layers(self) -> Iterator[int]:
        """Yield the numbers of the layers; the last node before each is kept: there is none before the first."""
        for il in range(self.n_layer):
            self.starts.append(self.graph.nodes[-1] if self.graph.nodes else self.inp_pos)
            yield il

    def inp_embd(self) -> Tensor:
        """Embeddings of the tokens."""
        tokens = ggml.graph_input(I32, self.n_tokens, name="inp_tokens")
        cur = ggml.get_rows(self.the("token_embd"), tokens)
        return ggml.like(cur, "SCALE") if self.setup.hparams.embedding_scale else cur

    def mask(self) -> Tensor:
        """The mask of the cache, as attention takes it."""
        rows = aligned(self.n_tokens, self.setup.of_ik.least_rows)
        found = ggml.graph_input(F32, self.setup.cells, rows, name="KQ_mask")
        return ggml.cast(found, F16) if self.setup.flash_attn else found

    def norm(self, x: Tensor, name: str, il: int | None = None, pin: bool = True) -> Tensor:
        """Normalise and multiply by the weight in one operation."""
        weight = self.weight(name, il)
        if weight is None:
            return ggml.like(x, "RMS_NORM")
        if weight.ne[1] > 1:
            return ggml.like(ggml.like(x, "RMS_NORM"), "MUL", weight)
        return self.plus(ggml.like(x, "FUSED_RMS_NORM", weight), name, il)

    def ffn(self, x: Tensor, il: int, suffix: str = "", gated: str = "parallel") -> Tensor:
        """A feed-forward layer whose gate and product are one operation."""
        up = self.mm("ffn_up" + suffix, x, il)
        gate = self.mm("ffn_gate" + suffix, x, il)
        return self.mm("ffn_down" + suffix, ggml.like(gate, "FUSED_MUL_UNARY", up), il)

    def add_feed_forward(self, x: Tensor, normed: Tensor, il: int, norm: bool, scale: bool) -> Tensor:
        """The feed-forward layer or the experts of one layer, shared experts beside them, and what comes in."""
        cur = self.feed_forward(normed, il, norm, scale)
        cur = self.norm(cur, "post_ffw_norm", il) if self.weight("post_ffw_norm", il) is not None else cur
        return ggml.like(cur, "ADD", x)

    def feed_forward(self, x: Tensor, il: int, norm: bool, scale: bool) -> Tensor:
        """The feed-forward layer or the experts of one layer, shared experts beside them.

        `norm`, `scale`: experts' weights are divided by their sum, multiplied by a number.
        """
        if self.weight("ffn_gate_inp", il) is None:
            return self.ffn(x, il)
        cur = self.experts(x, il, norm, scale)
        if self.weight("ffn_up_shexp", il) is None:
            return cur
        return ggml.like(cur, "ADD", self.ffn(x, il, "_shexp"))

    def experts(self, x: Tensor, il: int, norm: bool, scale: bool) -> Tensor:
        """Experts: the router's choice, each chosen expert on each token, their weighted sum."""
        sizes, (n_embd, n) = self.setup.hparams, x.ne[:2]
        used = sizes.n_expert_used
        probs = GATES[sizes.gating](self.mm("ffn_gate_inp", x, il))
        chosen = ggml.top_k(self.plus(probs, "exp_probs_b", il), used)
        weights = ggml.get_rows(ggml.reshape(probs, 1, probs.ne[0], n), chosen)
        if norm:
            weights = ggml.reshape(weights, used, n)
            weights = ggml.reshape(ggml.like(weights, "DIV", ggml.sum_rows(weights)), 1, used, n)
        weights = ggml.like(weights, "SCALE") if scale else weights
        hidden = self.gated_experts(ggml.reshape(x, n_embd, 1, n), chosen, weights, il)
        return self.weighed(ggml.mul_mat_id(self.the("ffn_down_exps", il), hidden, chosen), weights)

    def weighed(self, experts: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of what experts gave."""
        n_embd, used, n = experts.ne[:3]
        found = ggml.like(experts, "MUL", weights)
        first = ggml.view(found, n_embd, n, nb=(found.nb[2],))
        if used == 1:
            return ggml.cont(first)
        if used == 2:
            return ggml.like(first, "ADD", ggml.view(found, n_embd, n, nb=(found.nb[2],)))
        return ggml.new(F32, n_embd, n, op="MULTI_ADD", src=(first,))

    def gated_experts(self, x: Tensor, chosen: Tensor, weights: Tensor, il: int) -> Tensor:
        """What chosen experts' gate and up maps make of tokens; `weights` are not needed yet."""
        up, gate = self.the("ffn_up_exps", il), self.the("ffn_gate_exps", il)
        if self.setup.fused_moe and up.type is gate.type:
            shape = (up.ne[1], chosen.ne[0], x.ne[2])
            return ggml.new(F32, *shape, op="MOE_FUSED_UP_GATE", src=(up, gate, x, chosen))
        both = [ggml.mul_mat_id(each, x, chosen) for each in (up, gate)]
        return ggml.like(both[1], "FUSED_MUL_UNARY", both[0])

    # Attention

    def projections(self, x: Tensor, il: int) -> list[Tensor]:
        """Queries, keys and values."""
        return [self.mm(name, x, il) for name in ("attn_q", "attn_k", "attn_v")]

    def kv(self, mask: Tensor, il: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write keys and values into the cache, attend to what is in it, the output map behind it."""
        for each in (q, k, v):
            self.graph.expand(each)
        sizes, n = self.setup.hparams, self.n_tokens
        head, heads, width = k.ne[0], sizes.n_head_kv[il], sizes.n_head_kv[il] * sizes.head_v[il]
        keys, values = self.cache("k", il), self.cache("v", il)
        row = keys.type.row_bytes(head)
        self.graph.expand(ggml.cpy(k, ggml.view(keys, head, n * heads, nb=(row,))))
        if self.setup.flash_attn:
            self.graph.expand(ggml.cpy(v, ggml.view(values, n * width)))
        else:
            turned = ggml.view(values, n, width, nb=(self.setup.n_ctx * values.type.size,))
            self.graph.expand(ggml.cpy(ggml.transpose(v), turned))
        cur = self.graph.expand(self._kqv(mask, il, q, head))
        return self.mm("attn_output", cur, il)

    def cache(self, which: str, il: int) -> Tensor:
        """The keys or values of a layer."""
        name = f"cache_{which}_l{il}"
        if name not in self.found:
            setup, sizes = self.setup, self.setup.hparams
            width = sizes.n_head_kv[il] * (sizes.head_k if which == "k" else sizes.head_v)[il]
            kind = setup.type_k if which == "k" else setup.type_v
            device = setup.kv_devices[il] if setup.kv_devices else CPU
            self.found[name] = ggml.stored(kind, (width, setup.cells), device, False, name)
        return self.found[name]

    def _kqv(self, mask: Tensor, il: int, q: Tensor, head: int) -> Tensor:
        sizes, n = self.setup.hparams, self.n_tokens
        heads, dim, cells = sizes.n_head_kv[il], sizes.head_v[il], self.setup.cells
        keys, values = self.cache("k", il), self.cache("v", il)
        q = ggml.permute(q, 0, 2, 1, 3)
        row = keys.type.row_bytes(head)
        k = ggml.view(keys, head, cells, heads, nb=(row * heads, row))
        merged = dim * sizes.n_head[il]
        if self.setup.flash_attn:
            steps = values.type.row_bytes(dim * heads), values.type.row_bytes(dim)
            v = ggml.view(values, dim, cells, heads, nb=steps)
            return ggml.reshape(self.attended(ggml.flash_attn(q, k, v, mask)), merged, n)
        size = values.type.size * self.setup.n_ctx
        v = ggml.view(values, cells, dim, heads, nb=(size, size * dim))
        if self.setup.head_by_head(il):
            kqv = self._head_by_head(k, v, q, mask)
        else:
            kqv = ggml.mul_mat(v, self._scores(k, q, mask))
        cur = ggml.cont(ggml.permute(kqv, 0, 2, 1, 3), merged, n)
        if not self.setup.offload_kqv:
            cur.pinned = CPU
        return cur

    def attended(self, out: Tensor) -> Tensor:
        """What flash attention gives."""
        return out

    def _scores(self, k: Tensor, q: Tensor, mask: Tensor) -> Tensor:
        """Scores and their softmax."""
        kq = ggml.mul_mat(k, q)
        return ggml.like(kq, "SOFT_CAP_MAX", mask) if self.setup.hparams.softcap else ggml.soft_max(kq, mask)

    def _head_by_head(self, k: Tensor, v: Tensor, q: Tensor, mask: Tensor) -> Tensor:
        found: Tensor | None = None
        for _ in range(q.ne[2]):
            k_i, q_i, v_i = (ggml.view(each, each.ne[0], each.ne[1], 1, nb=each.nb[1:3]) for each in (k, q, v))
            part = ggml.mul_mat(v_i, self._scores(k_i, q_i, mask))
            found = part if found is None else ggml.concat(found, part, 2)
        assert found is not None
        return found

    # The end

    def end(self, x: Tensor, scale: bool = False) -> Graph:
        """The last norm, the output matrix, what is done to the logits."""
        cur = self.plus(ggml.mul_mat(self.output(), self.norm(x, "output_norm")), "output")
        cur = ggml.like(cur, "SCALE") if scale else cur
        self.graph.expand(cur)
        return self.graph
