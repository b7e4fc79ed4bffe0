"""Graphs of the towers that read images for llama.cpp: as tools/mtmd builds them, for one image of a size.

Source: tools/mtmd/clip.cpp (build_vit, build_attn, build_ffn) and tools/mtmd/models/*.cpp of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isqrt

from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import F16, F32, I32, Graph, Tensor
from oomph.engines.llamacpp.graph_setup import Stored

COLOURS = 3


@dataclass(frozen=True, eq=False)
class Tower:
    """A tower's file: `patch` pixels a side, tokens of `merge` patches a side, every `full_every`-th layer attends to
    the whole image (0: all do). `image` pixels a side are what it was trained for."""

    kind: str
    tensors: Mapping[str, Stored]
    image: int
    patch: int
    heads: int
    layers: int
    merge: int = 1
    full_every: int = 0

    @property
    def width(self) -> int:
        """Elements of a hidden state."""
        return self.tensors["v.patch_embd.weight"].ne[3]


@dataclass
class _Clip:
    """A graph under construction for an image of `side` patches a side."""

    tower: Tower
    side: int
    flash: bool
    mask_f16: bool = True
    graph: Graph = field(default_factory=Graph)
    found: dict[str, Tensor] = field(default_factory=dict)
    pixels: Tensor | None = None

    @property
    def patches(self) -> int:
        """Patches of the image."""
        return self.side * self.side

    def weight(self, name: str) -> Tensor | None:
        """Return a tensor of the file, None if it has none of that name."""
        there = self.tower.tensors.get(name)
        if there is None:
            return None
        if name not in self.found:
            self.found[name] = ggml.stored(there.type, there.ne, there.device, True, name)
        return self.found[name]

    def the(self, name: str) -> Tensor:
        """Return a tensor that the file must have; raises KeyError where it has not."""
        found = self.weight(name)
        if found is None:
            raise KeyError(name)
        return found

    def mm(self, name: str, x: Tensor) -> Tensor:
        """Multiply by a matrix; add its bias where the file has one."""
        cur = ggml.mul_mat(self.the(f"{name}.weight"), x)
        bias = self.weight(f"{name}.bias")
        return cur if bias is None else ggml.like(cur, "ADD", bias)

    def norm(self, x: Tensor, name: str, op: str) -> Tensor:
        """Normalise; weight and bias where the file has them."""
        cur = ggml.like(x, op)
        for kind, with_ in (("weight", "MUL"), ("bias", "ADD")):
            other = self.weight(f"{name}.{kind}")
            cur = cur if other is None else ggml.like(cur, with_, other)
        return cur

    def if_any(self, x: Tensor, name: str, op: str) -> Tensor:
        """The same where the file has such a norm at all."""
        return x if self.weight(f"{name}.weight") is None else self.norm(x, name, op)

    # The image

    def image(self) -> Tensor:
        """The image's pixels."""
        if self.pixels is None:
            side = self.side * self.tower.patch
            self.pixels = ggml.graph_input(F32, side, side, COLOURS, 1, name="inp_raw")
        return self.pixels

    def convolve(self, name: str) -> Tensor:
        """Patches as a convolution makes them: its windows in rows, times a matrix, back in place (ggml_conv_2d)."""
        kernel, patch = self.the(name), self.tower.patch
        kind = F32 if kernel.type.name == "BF16" else F16
        rows = kernel.ne[0] * kernel.ne[1] * kernel.ne[2]
        windows = ggml.new(kind, rows, self.side, self.side, 1, op="IM2COL", src=(kernel, self.image()))
        assert kernel.ne[0] == kernel.ne[1] == patch
        flat = ggml.reshape(windows, rows, self.patches)
        cur = ggml.mul_mat(flat, ggml.reshape(kernel, rows, kernel.ne[3]))
        cur = ggml.reshape(cur, self.side, self.side, 1, kernel.ne[3])
        return ggml.cont(ggml.permute(cur, 0, 1, 3, 2))

    def patch_rows(self) -> Tensor:
        """One row for each patch (build_inp)."""
        cur = ggml.reshape(self.convolve("v.patch_embd.weight"), self.patches, self.tower.width, 1)
        cur = ggml.cont(ggml.transpose(cur))
        bias = self.weight("v.patch_embd.bias")
        return cur if bias is None else ggml.like(cur, "ADD", bias)

    # A layer

    def attend(self, il: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of all patches to each other, and the output map."""
        for each in (q, k, v):
            self.graph.expand(each)
        q, k = ggml.permute(q, 0, 2, 1, 3), ggml.permute(k, 0, 2, 1, 3)
        if self.flash:
            v = ggml.permute(v, 0, 2, 1, 3)
            k, v = ggml.cast(k, F16), ggml.cast(v, F16)
            mask = mask if mask is None or self.mask_f16 else ggml.cast(mask, F16)
            cur = ggml.new(F32, v.ne[0], q.ne[2], q.ne[1], q.ne[3], op="FLASH_ATTN_EXT", src=(q, k, v, mask))
            cur = ggml.reshape(cur, cur.ne[0] * cur.ne[1], cur.ne[2] * cur.ne[3])
        else:
            v = ggml.cont(ggml.permute(v, 1, 2, 0, 3))
            scores = ggml.soft_max(ggml.mul_mat(k, q), mask)
            cur = ggml.permute(ggml.mul_mat(v, scores), 0, 2, 1, 3)
            cur = ggml.cont(cur, cur.ne[0] * cur.ne[1], cur.ne[2] * cur.ne[3])
        return self.mm(f"v.blk.{il}.attn_out", cur)

    def qkv(self, il: int, x: Tensor) -> list[Tensor]:
        """Queries, keys and values in heads."""
        heads, count = self.tower.heads, x.ne[1] * x.ne[2]
        maps = [self.mm(f"v.blk.{il}.attn_{name}", x) for name in "qkv"]
        return [ggml.reshape(each, self.tower.width // heads, heads, count) for each in maps]

    def ffn(self, x: Tensor, up: str, down: str, gate: str = "") -> Tensor:
        """Two maps with an activation between, or three."""
        made = self.mm(up, x)
        if gate and self.weight(f"{gate}.weight") is not None:
            cur = ggml.glu(self.mm(gate, x), made)
        else:
            cur = ggml.unary(made)
        return self.mm(down, cur)

    def layer(
        self, il: int, x: Tensor, op: str, turned: Callable[[Tensor], Tensor] | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Attention and feed-forward layer, each added to what it read."""
        name = f"v.blk.{il}"
        q, k, v = self.qkv(il, self.norm(x, f"{name}.ln1", op))
        if turned is not None:
            q, k = turned(q), turned(k)
        middle = ggml.like(self.attend(il, q, k, v, mask), "ADD", x)
        cur = self.norm(middle, f"{name}.ln2", op)
        up, down = f"{name}.ffn_up", f"{name}.ffn_down"
        if self.the(f"{down}.weight").ne[0] == self.tower.width:  # older files have their names exchanged
            up, down = down, up
        return ggml.like(middle, "ADD", self.ffn(cur, up, down, f"{name}.ffn_gate"))

    def vit(self, x: Tensor, op: str, turned: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """A transformer over patches (build_vit)."""
        x = ggml.reshape(x, self.tower.width, x.ne[1])
        x = self.if_any(x, "v.pre_ln", op)
        for il in range(self.tower.layers):
            x = self.layer(il, x, op, turned)
        x = self.if_any(x, "v.post_ln", op)
        return ggml.reshape(x, self.tower.width, x.ne[1], 1)


def _gemma3(b: _Clip) -> Tensor:
    merge, width = b.tower.merge, b.tower.width
    cur = ggml.like(b.patch_rows(), "ADD", b.the("v.position_embd.weight"))
    cur = b.vit(cur, "NORM")
    cur = ggml.cont(ggml.transpose(cur), b.side, b.side, width, 1)
    cur = ggml.new(F32, b.side // merge, b.side // merge, width, 1, op="POOL_2D", src=(cur,))
    cur = ggml.cont(ggml.transpose(ggml.reshape(cur, cur.ne[0] * cur.ne[0], width, 1)))
    cur = ggml.like(ggml.like(cur, "RMS_NORM"), "MUL", b.the("mm.soft_emb_norm.weight"))
    return ggml.mul_mat(ggml.cont(ggml.transpose(b.the("mm.input_projection.weight"))), cur)


def _qwen2vl(b: _Clip) -> Tensor:
    op = "RMS_NORM" if b.tower.full_every else "NORM"
    side, width, patches = b.side, b.tower.width, b.patches
    tokens = patches // 4
    cur = ggml.like(b.convolve("v.patch_embd.weight"), "ADD", b.convolve("v.patch_embd.weight.1"))
    cur = ggml.cont(ggml.permute(cur, 1, 2, 0, 3), width * 2, side // 2, side, 1)
    cur = ggml.permute(ggml.reshape(cur, width * 2, side // 2, 2, side // 2), 0, 2, 1, 3)
    cur = ggml.cont(cur, width, patches, 1)
    positions = ggml.graph_input(I32, patches * 4, name="positions")
    cur = b.if_any(cur, "v.pre_ln", op)
    mask = None
    if b.tower.full_every:
        index = ggml.graph_input(I32, tokens, name="inv_window_idx")
        mask = ggml.graph_input(F16 if b.flash and b.mask_f16 else F32, patches, patches, name="window_mask")
        mask = ggml.cast(mask, F16) if b.flash and not b.mask_f16 else mask
        cur = ggml.get_rows(ggml.reshape(cur, width * 4, tokens), index)
        cur = ggml.reshape(cur, width, patches, 1)
    for il in range(b.tower.layers):
        whole = not b.tower.full_every or (il + 1) % b.tower.full_every == 0
        cur = b.layer(il, cur, op, lambda x: ggml.like(x, "ROPE", positions), None if whole else mask)
    cur = ggml.reshape(b.if_any(cur, "v.post_ln", op), width * 4, tokens, 1)
    cur = b.ffn(cur, "mm.0", "mm.2")
    if b.tower.full_every:
        back = ggml.graph_input(I32, tokens, name="window_idx")
        cur = ggml.get_rows(ggml.reshape(cur, cur.ne[0], tokens), back)
        cur = ggml.reshape(cur, cur.ne[0], tokens, 1)
    return cur


def _pixtral(b: _Clip) -> Tensor:
    down, across = (ggml.graph_input(I32, b.patches, name=name) for name in ("pos_h", "pos_w"))
    cur = b.vit(b.patch_rows(), "RMS_NORM", lambda x: ggml.like(ggml.like(x, "ROPE", down), "ROPE", across))
    merge, side = b.tower.merge, b.side
    if b.weight("mm.patch_merger.weight") is not None:
        cur = ggml.like(ggml.like(cur, "RMS_NORM"), "MUL", b.the("mm.input_norm.weight"))
        cur = ggml.cont(ggml.permute(ggml.reshape(cur, b.tower.width, side, side), 2, 0, 1, 3))
        kernel = ggml.view(cur, merge, merge, cur.ne[2], nb=(0, 0))
        side //= merge
        length = merge * merge * cur.ne[2]
        cur = ggml.new(F32, length, side, side, op="IM2COL", src=(kernel, cur))
        cur = b.mm("mm.patch_merger", ggml.reshape(cur, length, side * side))
    cur = b.ffn(cur, "mm.1", "mm.2")
    line_end = b.weight("v.token_embd.img_break")
    if line_end is None:
        return cur
    width = cur.ne[0]
    rows = ggml.reshape(cur, width, side, side)
    ends = ggml.like(ggml.like(ggml.new(F32, width, 1, side), "SCALE"), "ADD", line_end)
    return ggml.view(ggml.concat(rows, ends, 1), width, side * side + side - 1)


def _llava(b: _Clip) -> Tensor:
    cur = b.patch_rows()
    first = b.weight("v.class_embd")
    cur = cur if first is None else ggml.concat(cur, first, 1)
    positions = ggml.graph_input(I32, cur.ne[1], name="positions")
    cur = ggml.like(cur, "ADD", ggml.get_rows(b.the("v.position_embd.weight"), positions))
    cur = b.if_any(cur, "v.pre_ln", "NORM")
    for il in range(b.tower.layers - 1):  # the layer before the last is what the projector was trained on
        cur = b.layer(il, cur, "NORM")
    cur = b.if_any(cur, "v.post_ln", "NORM")
    patches = ggml.graph_input(I32, b.patches, name="patches")
    cur = ggml.get_rows(ggml.reshape(cur, cur.ne[0], cur.ne[1]), patches)
    return b.ffn(cur, "mm.0", "mm.2")


GRAPHS: Mapping[str, Callable[[_Clip], Tensor]] = {
    "gemma3": _gemma3, "qwen2vl_merger": _qwen2vl, "qwen2.5vl_merger": _qwen2vl, "pixtral": _pixtral, "mlp": _llava,
}  # fmt: skip
# Tokens of an image that memory is reserved for at the start, and at most (set_warmup_n_tokens,
# set_limit_image_tokens); towers that are not here read images of one size.
TOKENS = {"qwen2vl_merger": (46 * 46, 4096), "qwen2.5vl_merger": (46 * 46, 4096), "pixtral": (256, 1024)}


def image_graph(tower: Tower, tokens: int, flash: bool, mask_f16: bool = True) -> Graph:
    """Return the graph of a square image of so many tokens; of one of the tower's own size for 0."""
    side = isqrt(tokens) * tower.merge if tokens else tower.image // tower.patch
    builder = _Clip(tower, side, flash, mask_f16)
    builder.graph.expand(GRAPHS[tower.kind](builder))
    return builder.graph
