"""The pieces that llama.cpp's models share: inputs, norms, attention over the cache, feed-forward layers, experts.

A `Builder` builds one graph for one batch. Each of its methods adds what the method of that name in src/llama-graph.cpp
adds, in that order: which block of memory a tensor gets depends on it. Source: llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import F16, F32, I32, I64, Graph, Tensor
from oomph.engines.llamacpp.graph_setup import CPU, GraphSetup
from oomph.errors import UnsupportedError

PIN_BELOW = 32  # tokens: smaller batches have their norms on the layer's own device (graph_get_cb)
GATES = {"softmax": ggml.soft_max, "sigmoid": ggml.unary}
# n_pos_per_embd: positions of a token, for time, height, width and one more
POSITIONS = {"qwen2vl": 4, "qwen3vl": 4, "qwen35": 4, "qwen35moe": 4}
ROTATED = 64  # elements: the side of the smallest rotation that quantised caches are turned by (build_input_v_rot)


@dataclass
class AttentionInput:
    """The inputs of one cache: where keys and values are written, the mask, and rotations of quantised caches."""

    k_idxs: Tensor | None
    v_idxs: Tensor | None
    mask: Tensor
    cells: int
    latent: bool = False
    k_rot: Tensor | None = None
    v_rot: Tensor | None = None
    for_kernel: Tensor | None = None  # the mask as flash attention takes it


@dataclass
class Builder:
    """A graph under construction, for a batch of `n_tokens` of `n_seqs` sequences of which `n_outputs` give logits."""

    setup: GraphSetup
    n_tokens: int
    n_seqs: int
    n_outputs: int
    graph: Graph = field(default_factory=Graph)
    found: dict[str, Tensor] = field(default_factory=dict)
    embedded: Tensor | None = None  # what the tokens came in as, with embeddings of images for deeper layers behind it
    starts: list[Tensor] = field(default_factory=list)  # the last node before each layer

    def layers(self) -> Iterator[int]:
        """Yield the numbers of the layers; where the graph stood when each was begun is kept."""
        for il in range(self.n_layer):
            self.starts.append(self.graph.nodes[-1])
            yield il

    @property
    def n_layer(self) -> int:
        """Layers of the model."""
        return self.setup.hparams.n_layer

    @cached_property
    def n_embd(self) -> int:
        """Width of the hidden states."""
        return self.setup.tensors["token_embd.weight"].ne[0]

    @cached_property
    def out_ids(self) -> Tensor:
        """Which tokens give logits."""
        return ggml.graph_input(I32, self.n_outputs, name="out_ids")

    @cached_property
    def inp_pos(self) -> Tensor:
        """Positions of the tokens."""
        return ggml.graph_input(I32, self.n_tokens * POSITIONS.get(self.setup.arch, 1), name="inp_pos")

    def weight(self, name: str, il: int | None = None, kind: str = "weight") -> Tensor | None:
        """Return a tensor of the file, None if it has none of that name."""
        full = ".".join(filter(None, ("" if il is None else f"blk.{il}", name, kind)))
        if full not in self.found:
            there = self.setup.tensors.get(full)
            if there is None:
                return None
            self.found[full] = ggml.stored(there.type, there.ne, there.device, True, full)
        return self.found[full]

    def the(self, name: str, il: int | None = None, kind: str = "weight") -> Tensor:
        """Return a tensor that the file must have; raises UnsupportedError where it has not."""
        there = self.weight(name, il, kind)
        if there is None:
            where = "" if il is None else f" in layer {il}"
            raise UnsupportedError(f"A {self.setup.arch} without {name}{where} is none that llama.cpp reads.")
        return there

    def output(self, name: str = "output") -> Tensor:
        """Return the output matrix: the embedding where the file has no other."""
        return self.weight(name) or self.the("token_embd")

    # Inputs

    def inp_embd(self) -> Tensor:
        """Embeddings of the tokens, beside the other ways in which a batch may come."""
        embedding, n = self.the("token_embd"), self.n_tokens
        more = self.n_embd * self.setup.hparams.deepstack
        width = self.n_embd + more

        def rows(name: str) -> Tensor:
            return self.graph.expand(ggml.get_rows(embedding, ggml.graph_input(I32, n, name=name)))

        def widened(found: Tensor) -> Tensor:
            return self.graph.expand(ggml.pad(found, more)) if more else found

        build = self.setup.build
        cur, mixed = rows("inp_tokens"), rows("inp_mixed_tokens") if build.mixed else None
        cur = widened(cur)
        if build.embd_leaf:
            self.graph.expand(ggml.graph_input(F32, width, n, name="inp_embd"))
        if mixed is not None:
            mixed = widened(mixed)
            base = ggml.like(ggml.graph_input(F32, width, n, name="inp_mixed_embd"), "DUP")
            self.graph.expand(ggml.set_rows(base, mixed, ggml.graph_input(I64, n, name="inp_mixed_slots")))
        cur = ggml.view(cur, self.n_embd, n, nb=(cur.nb[1],)) if more else cur
        self.embedded = cur
        return self.graph.expand(ggml.like(cur, "SCALE") if self.setup.hparams.embedding_scale else cur)

    def scaled_rows(self, x: Tensor) -> Tensor:
        """Embeddings of tokens scaled, those of images in the same batch not."""
        if self.setup.build.mixed:
            return ggml.like(x, "MUL", ggml.graph_input(F32, 1, self.n_tokens, name="inp_scale_rows"))
        return ggml.like(x, "SCALE")

    def attention_input(self, swa: bool = False, latent: bool = False) -> AttentionInput:
        """The inputs of the cache of all tokens, or of that of windows; `latent`: its keys are its values too."""
        setup, n = self.setup, self.n_tokens
        cells, streams = setup.swa_cells if swa else setup.cells, setup.n_streams
        kind = F16 if setup.flash_attn and setup.build.mask_f16 else F32
        width = 1 if setup.flash_attn else self._widest_values

        def of_cache(heads: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(dim for dim, windowed in zip(heads, setup.hparams.swa, strict=True) if windowed == swa)

        rows, turns = setup.build.row_writes, setup.build.rotations and not latent
        return AttentionInput(
            k_idxs=ggml.graph_input(I64, n, name="k_idxs") if rows else None,
            v_idxs=ggml.graph_input(I64, n * width, name="v_idxs") if rows and not latent else None,
            mask=ggml.graph_input(kind, cells, n // streams, 1, streams, name="kq_mask"),
            cells=cells,
            latent=latent,
            k_rot=self._rotation(of_cache(setup.hparams.head_k), largest=True)
            if turns and setup.type_k.block > 1
            else None,
            v_rot=self._rotation(of_cache(setup.hparams.head_v), largest=False)
            if turns and setup.type_v.block > 1
            else None,
        )

    @cached_property
    def _widest_values(self) -> int:
        sizes = self.setup.hparams
        return max(n * dim for n, dim in zip(sizes.n_head_kv, sizes.head_v, strict=True))

    @staticmethod
    def _rotation(heads: tuple[int, ...], largest: bool) -> Tensor | None:
        """A Hadamard matrix by which the heads of a quantised cache are turned, whole multiples of its side."""
        head = next((each for each in heads if each), 0)
        if not head or head % ROTATED:
            return None
        side = ROTATED
        while largest and len(set(filter(None, heads))) == 1 and head % (2 * side) == 0:
            side *= 2
        return ggml.graph_input(F32, side, side, name="rot")

    # Layers

    def mm(self, name: str, x: Tensor, il: int | None = None) -> Tensor:
        """Multiply by a matrix and add its bias, if it has one."""
        cur = ggml.mul_mat(self.the(name, il), x)
        return self.plus(cur, name, il)

    def plus(self, x: Tensor, name: str, il: int | None = None) -> Tensor:
        """Add a bias, if the file has it."""
        bias = self.weight(name, il, "bias")
        return x if bias is None else ggml.like(x, "ADD", bias)

    def norm(self, x: Tensor, name: str, il: int | None = None, pin: bool = True) -> Tensor:
        """Normalise; weight and bias where the file has them."""
        cur = ggml.like(x, "RMS_NORM")
        weight = self.weight(name, il)
        if weight is None:
            return cur
        if pin and il is not None and (self.n_tokens < PIN_BELOW or self.setup.full_offload):
            cur.pinned = self.setup.layer_devices[il] if self.setup.layer_devices else None
        return self.plus(ggml.like(cur, "MUL", weight), name, il)

    def qkv(self, x: Tensor, il: int, split: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, in heads unless `split` is False."""
        sizes, n = self.setup.hparams, self.n_tokens
        heads = (sizes.n_head[il], sizes.n_head_kv[il], sizes.n_head_kv[il])
        dims = (sizes.head_k[il], sizes.head_k[il], sizes.head_v[il])
        if self.weight("attn_qkv", il) is not None:
            fused = self.mm("attn_qkv", x, il)
            fused = ggml.like(fused, "CLAMP") if sizes.clamp_kqv else fused
            step = fused.nb[1]
            q, k, v = (ggml.view(fused, d, h, n, nb=(d * F32.size, step)) for d, h in zip(dims, heads, strict=True))
            return q, k, v
        found = []
        for name, d, h in zip(("attn_q", "attn_k", "attn_v"), dims, heads, strict=True):
            cur = self.mm(name, x, il)
            cur = ggml.like(cur, "CLAMP") if sizes.clamp_kqv else cur
            found.append(ggml.reshape(cur, d, h, n) if split else cur)
        return found[0], found[1], found[2]

    def rope(self, x: Tensor, il: int, scaled: bool = True) -> Tensor:
        """Rotate by position; `scaled`: by the file's table of frequencies, if it has one."""
        return ggml.like(x, "ROPE", self.inp_pos, self._rope_factors(il) if scaled else None)

    def _rope_factors(self, il: int) -> Tensor | None:
        """The table of frequencies, which is loaded to every device that has layers."""
        tables = (f"{name}.weight" for name in ("rope_freqs", "rope_factors_long", "rope_factors_short"))
        name = next((each for each in tables if each in self.setup.tensors), None)
        if name is None:
            return None
        there = self.setup.tensors[name]
        device = self.setup.layer_devices[il] if self.setup.layer_devices else there.device
        if f"{name} on {device}" not in self.found:
            self.found[f"{name} on {device}"] = ggml.stored(there.type, there.ne, device, True, name)
        return self.found[f"{name} on {device}"]

    def ffn(self, x: Tensor, il: int, suffix: str = "", gated: str = "parallel") -> Tensor:
        """A feed-forward layer: gate and up maps beside each other, one map for both ("halves"), no gate ("none")."""
        up = self.mm("ffn_up" + suffix, x, il)
        if gated == "parallel":
            cur = ggml.glu(self.mm("ffn_gate" + suffix, x, il), up)
        elif gated == "halves":
            cur = ggml.glu(up)
        else:
            cur = ggml.unary(up)
            cur = ggml.like(cur, "SQR") if gated == "squared" else cur
        return self.mm("ffn_down" + suffix, cur, il)

    def moe(
        self, x: Tensor, il: int, logits: Tensor | None = None, norm: bool | None = None, weighed_before: bool = False
    ) -> Tensor:
        """Experts: the router's choice, each chosen expert on each token, their weighted sum.

        `weighed_before`: tokens are multiplied by the weights instead of what experts make of them (Llama 4).
        """
        sizes = self.setup.hparams
        weights, chosen = self._route(x, il, logits, sizes.norm_weights if norm is None else norm, weighed_before)
        used, n = chosen.ne[0], self.n_tokens if x.ne[1] == self.n_tokens else x.ne[1]
        cur = ggml.reshape(x, x.ne[0], 1, n)
        cur = ggml.like(ggml.repeat(cur, x.ne[0], used, n), "MUL", weights) if weighed_before else cur
        if self.weight("ffn_gate_up_exps", il) is not None:
            both = self._mm_id("ffn_gate_up_exps", cur, il, chosen)
            half = both.ne[0] // 2
            gate, up = (ggml.view(both, half, both.ne[1], both.ne[2], nb=both.nb[1:3]) for _ in range(2))
            hidden = ggml.glu(gate, up)
        else:
            up = self._mm_id("ffn_up_exps", cur, il, chosen)
            gated = self.weight("ffn_gate_exps", il) is not None
            hidden = ggml.like(ggml.unary(up), "SQR")
            hidden = ggml.glu(self._mm_id("ffn_gate_exps", cur, il, chosen), up) if gated else hidden
        experts = self._mm_id("ffn_down_exps", hidden, il, chosen)
        experts = experts if weighed_before else ggml.like(experts, "MUL", weights)
        self.graph.expand(experts)
        parts = [ggml.view(experts, x.ne[0], n, nb=(experts.nb[2],)) for _ in range(used)]
        for each in parts:
            self.graph.expand(each)
        total = parts[0]
        for each in parts[1:]:
            total = self.graph.expand(ggml.like(total, "ADD", each))
        return ggml.cont(total) if used == 1 else total

    def _mm_id(self, name: str, x: Tensor, il: int, chosen: Tensor) -> Tensor:
        """Multiply by the chosen experts' matrices; their scales and biases where the file has them."""
        cur = ggml.mul_mat_id(self.the(name, il), x, chosen)
        scale, bias = self.weight(name, il, "scale"), self.weight(name, il, "bias")
        if scale is not None:
            of_tokens = ggml.repeat(ggml.reshape(scale, 1, scale.ne[0], 1), 1, scale.ne[0], x.ne[2])
            cur = ggml.like(cur, "MUL", ggml.get_rows(of_tokens, chosen))
        return cur if bias is None else ggml.like(cur, "ADD_ID", bias, chosen)

    def _route(self, x: Tensor, il: int, logits: Tensor | None, norm: bool, by_logits: bool) -> tuple[Tensor, Tensor]:
        """The router: weights [1, used, tokens] and numbers [used, tokens] of the experts chosen."""
        sizes, n = self.setup.hparams, x.ne[1]
        if logits is None:
            logits = self.mm("ffn_gate_inp", x, il)
        probs = logits if sizes.gating == "softmax_weight" else GATES[sizes.gating](logits)
        n_expert, used = probs.ne[0], sizes.n_expert_used
        selection = logits if by_logits else self.plus(probs, "exp_probs_b", il)
        if sizes.n_expert_groups > 1:
            selection = self._in_groups(selection)
        chosen = ggml.top_k(selection, used)
        weights = ggml.get_rows(ggml.reshape(probs, 1, n_expert, n), chosen)
        if sizes.gating == "softmax_weight":
            weights = ggml.reshape(ggml.soft_max(ggml.reshape(weights, used, n)), 1, used, n)
        if norm:
            weights = ggml.reshape(weights, used, n)
            total = ggml.like(ggml.sum_rows(weights), "CLAMP")
            weights = ggml.reshape(ggml.like(weights, "DIV", total), 1, used, n)
        if sizes.scale_weights:
            weights = ggml.like(weights, "SCALE")
        return self.graph.expand(weights), chosen

    def _in_groups(self, probs: Tensor) -> Tensor:
        """DeepSeek-V3's choice of groups of experts, the others' scores masked."""
        sizes, (n_expert, n) = self.setup.hparams, probs.ne[:2]
        groups = sizes.n_expert_groups
        grouped = ggml.reshape(probs, n_expert // groups, groups, n)
        best = ggml.top_k(grouped, 2)
        scores = ggml.get_rows(ggml.reshape(grouped, 1, *grouped.ne[:3]), best)
        scores = ggml.sum_rows(ggml.reshape(scores, *scores.ne[1:4]))
        chosen = ggml.top_k(ggml.reshape(scores, scores.ne[1], scores.ne[2]), sizes.n_group_used)
        kept = ggml.get_rows(grouped, chosen)
        return ggml.reshape(ggml.set_rows(ggml.like(grouped, "FILL"), kept, chosen), n_expert, n)

    # Attention

    def attend(
        self, inp: AttentionInput, il: int, q: Tensor, k: Tensor | None, v: Tensor | None, cache_of: int | None = None
    ) -> Tensor:
        """Write keys and values into the cache, attend to what is in it; the output map is not applied yet."""
        if inp.k_rot is not None:
            q = self._rotate(q, inp.k_rot)
            k = self._rotate(k, inp.k_rot) if k is not None else None
        if inp.v_rot is not None and v is not None:
            v = self._rotate(v, inp.v_rot)
        self.graph.expand(q)
        ordered = (v, k) if self.setup.build.values_first and not any(self.setup.hparams.swa) else (k, v)
        for each in ordered:
            if each is not None:
                self.graph.expand(each)
        place, turned = il if cache_of is None else cache_of, not self.setup.flash_attn
        sizes = self.setup.hparams
        heads, keys = sizes.n_head_kv[place], self._cache("k", inp, place)
        if k is not None:
            self.graph.expand(self._write(keys, k, inp.k_idxs, False))
        if v is not None and not inp.latent:
            self.graph.expand(self._write(self._cache("v", inp, place), v, inp.v_idxs, turned))
        seen = self._read(keys, sizes.head_k[place], heads, inp.cells, False)
        if inp.latent:
            assert v is not None
            values = ggml.view(seen, v.ne[0], *seen.ne[1:], nb=seen.nb[1:])
        else:
            values = self._read(self._cache("v", inp, place), sizes.head_v[place], heads, inp.cells, turned)
        cur = self._mha(inp, il, q, seen, values)
        return self._rotate(cur, inp.v_rot) if inp.v_rot is not None else cur

    @staticmethod
    def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
        side = rotation.ne[0]
        count = x.ne[0] * x.ne[1] * x.ne[2] * x.ne[3] // side
        whole = x.nb == ggml.strides(x.type, x.ne)
        flat = ggml.reshape(x, side, count) if whole else ggml.cont(x, side, count)
        return ggml.reshape(ggml.mul_mat(rotation, flat), *x.ne)

    def _cache(self, which: str, inp: AttentionInput, il: int) -> Tensor:
        name = f"cache_{which}_l{il}"
        if name not in self.found:
            setup, sizes = self.setup, self.setup.hparams
            width = sizes.n_head_kv[il] * (sizes.head_k if which == "k" else sizes.head_v)[il]
            if which == "v" and not setup.flash_attn:
                width = self._widest_values
            kind = setup.type_k if which == "k" else setup.type_v
            device = setup.kv_devices[il] if setup.kv_devices else CPU
            self.found[name] = ggml.stored(kind, (width, inp.cells, setup.n_streams), device, False, name)
        return self.found[name]

    def _write(self, cache: Tensor, x: Tensor, rows: Tensor | None, turned: bool) -> Tensor:
        width, n = x.ne[0] * x.ne[1], x.ne[2]
        if rows is None:
            part = ggml.view(cache, n if turned else width, width if turned else n, nb=(cache.nb[1],))
            return ggml.cpy(ggml.transpose(ggml.reshape(x, width, n)) if turned else x, part)
        if turned:
            x = ggml.reshape(x, width, n) if x.nb[2] == width * x.type.size else ggml.cont(x, width, n)
            if width < cache.ne[0]:
                x = ggml.pad(x, cache.ne[0] - width)
            cache = ggml.reshape(cache, 1, cache.ne[0] * cache.ne[1] * cache.ne[2])
            return ggml.set_rows(cache, ggml.reshape(x, 1, x.ne[0] * n), rows)
        x = ggml.view(x, width, n, nb=(x.nb[2],))
        if cache.ne[2] > 1:
            cache = ggml.reshape(cache, cache.ne[0], cache.ne[1] * cache.ne[2])
        return ggml.set_rows(cache, x, rows)

    @staticmethod
    def _read(cache: Tensor, dim: int, heads: int, cells: int, turned: bool) -> Tensor:
        kind, (width, size, streams) = cache.type, cache.ne[:3]
        if turned:
            steps = (size * dim * kind.size, size * kind.size, size * width * kind.size)
            return ggml.view(cache, cells, heads, dim, streams, nb=steps)
        row = kind.row_bytes(width)
        return ggml.view(cache, dim, heads, cells, streams, nb=(kind.row_bytes(dim), row, row * size))

    def _mha(self, inp: AttentionInput, il: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Scores, softmax and their product with the values; one kernel with flash attention."""
        setup, streams = self.setup, k.ne[3]
        turned = v.nb[1] > v.nb[2]
        per_stream = q.ne[2] // streams
        q = ggml.view(q, q.ne[0], q.ne[1], per_stream, streams, nb=(q.nb[1], q.nb[2], q.nb[2] * per_stream))
        q, k, v = (ggml.permute(each, 0, 2, 1, 3) for each in (q, k, v))
        sinks, latent_v = self.weight("attn_sinks", il), self._latent_values(il)
        if setup.flash_attn:
            v = ggml.transpose(v) if turned else v
            k, v = (ggml.cast(each, F16) if each.type is F32 else each for each in (k, v))
            cur = ggml.flash_attn(q, k, v, self._kernel_mask(inp), sinks)
            if latent_v is not None:
                cur = ggml.mul_mat(latent_v, ggml.permute(cur, 0, 2, 1, 3))
                cur = ggml.cont(ggml.permute(cur, 0, 2, 1, 3))
            cur = ggml.reshape(cur, cur.ne[0] * cur.ne[1], cur.ne[2] * cur.ne[3])
        else:
            kq = ggml.mul_mat(k, q)
            if setup.hparams.softcap:
                kq = ggml.like(ggml.unary(ggml.like(kq, "SCALE")), "SCALE")
            kq = ggml.soft_max(kq, inp.mask, sinks)
            v = v if turned else ggml.cont(ggml.transpose(v))
            kqv = ggml.mul_mat(v, kq)
            kqv = ggml.mul_mat(latent_v, kqv) if latent_v is not None else kqv
            cur = ggml.permute(kqv, 0, 2, 1, 3)
            cur = ggml.cont(cur, cur.ne[0] * cur.ne[1], cur.ne[2] * cur.ne[3])
            if not setup.offload_kqv:
                cur.pinned = CPU
        return self.graph.expand(cur)

    def _latent_values(self, il: int) -> Tensor | None:
        return self.weight("attn_v_b", il)

    def _kernel_mask(self, inp: AttentionInput) -> Tensor:
        if self.setup.build.mask_f16:
            return inp.mask
        if inp.for_kernel is None:
            inp.for_kernel = ggml.cast(inp.mask, F16)
        return inp.for_kernel

    # The end

    def logits(self, x: Tensor, softcap: bool = False, scale: bool = False, rows: bool = False) -> Graph:
        """The last norm, the output matrix, what is done to the logits. `rows`: x has tokens without logits too."""
        cur = self.norm(x, "output_norm")
        cur.output = True
        if rows:
            cur = ggml.get_rows(cur, self.out_ids)
            cur.output = True
        cur = self.plus(ggml.mul_mat(self.output(), cur), "output")
        if scale:
            cur = ggml.like(cur, "SCALE")
        if softcap:
            cur = ggml.like(ggml.unary(ggml.like(cur, "SCALE")), "SCALE")
        cur.output = True
        self.graph.expand(cur)
        return self.graph
