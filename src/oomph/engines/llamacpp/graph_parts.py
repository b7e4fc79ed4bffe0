"""The pieces that llama.cpp's models share: inputs, weights, norms, maps, feed-forward layers, the end.

A `Builder` builds one graph for one batch. Each of its methods adds what the method of that name in src/llama-graph.cpp
adds, in that order: which block of memory a tensor gets depends on it. Source: llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import F32, I32, I64, Graph, Tensor
from oomph.engines.llamacpp.graph_setup import GraphSetup
from oomph.errors import UnsupportedError

PIN_BELOW = 32  # tokens: smaller batches have their norms on the layer's own device (graph_get_cb)
# n_pos_per_embd: positions of a token, for time, height, width and one more
POSITIONS = {"qwen2vl": 4, "qwen3vl": 4, "qwen35": 4, "qwen35moe": 4}


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

    # Layers

    def mm(self, name: str, x: Tensor, il: int | None = None) -> Tensor:
        """Multiply by a matrix and add its bias, if it has one."""
        return self.plus(self.adapted(ggml.mul_mat(self.the(name, il), x), name, il, x), name, il)

    def adapted(self, cur: Tensor, name: str, il: int | None, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Add what adapters make of x, if the matrix has any; of the experts that are `chosen`."""
        for number in count() if self.setup.adapted else ():
            a, b = (self.weight(name, il, f"weight.lora_{each}{number}") for each in "ab")
            if a is None or b is None:
                break
            if chosen is None:
                change = ggml.mul_mat(b, ggml.mul_mat(a, x))
            else:
                change = ggml.mul_mat_id(b, ggml.mul_mat_id(a, x, chosen), chosen)
            cur = ggml.like(cur, "ADD", ggml.like(change, "SCALE"))
        return cur

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

    # The end

    def logits(self, x: Tensor, softcap: bool = False, scale: bool = False, rows: bool = False) -> Graph:
        """The last norm, the output matrix, what is done to the logits. `rows`: x has tokens without logits too."""
        cur = self.norm(x, "output_norm")
        cur.output = True
        if rows:
            cur = ggml.get_rows(cur, self.out_ids)
            cur.output = True
        cur = self.plus(self.adapted(ggml.mul_mat(self.output(), cur), "output", None, cur), "output")
        if scale:
            cur = ggml.like(cur, "SCALE")
        if softcap:
            cur = ggml.like(ggml.unary(ggml.like(cur, "SCALE")), "SCALE")
        cur.output = True
        self.graph.expand(cur)
        return self.graph
