"""Attention of llama.cpp's graphs over the cache: what is written into it, what is read, and the scores between.

Source: build_attn and build_attn_mha of src/llama-graph.cpp, get_k, cpy_k and build_input_k_rot of
src/llama-kv-cache.cpp, llama.cpp 0c1e57098.
"""

from __future__ import annotations

from dataclasses import dataclass

from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import F16, F32, I64, Tensor
from oomph.engines.llamacpp.graph_parts import Builder
from oomph.engines.llamacpp.graph_setup import CPU

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


def attention_input(b: Builder, swa: bool = False, latent: bool = False) -> AttentionInput:
    """The inputs of the cache of all tokens, or of that of windows; `latent`: its keys are its values too."""
    setup, n = b.setup, b.n_tokens
    cells, streams = setup.swa_cells if swa else setup.cells, setup.n_streams
    kind = F16 if setup.flash_attn and setup.build.mask_f16 else F32
    width = 1 if setup.flash_attn else _widest_values(b)

    def of_cache(heads: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dim for dim, windowed in zip(heads, setup.hparams.swa, strict=True) if windowed == swa)

    rows, turns = setup.build.row_writes, setup.build.rotations and not latent
    return AttentionInput(
        k_idxs=ggml.graph_input(I64, n, name="k_idxs") if rows else None,
        v_idxs=ggml.graph_input(I64, n * width, name="v_idxs") if rows and not latent else None,
        mask=ggml.graph_input(kind, cells, n // streams, 1, streams, name="kq_mask"),
        cells=cells,
        latent=latent,
        k_rot=_rotation(of_cache(setup.hparams.head_k), largest=True) if turns and setup.type_k.block > 1 else None,
        v_rot=_rotation(of_cache(setup.hparams.head_v), largest=False) if turns and setup.type_v.block > 1 else None,
    )


def _widest_values(b: Builder) -> int:
    sizes = b.setup.hparams
    return max(n * dim for n, dim in zip(sizes.n_head_kv, sizes.head_v, strict=True))


def _rotation(heads: tuple[int, ...], largest: bool) -> Tensor | None:
    """A Hadamard matrix by which the heads of a quantised cache are turned, whole multiples of its side."""
    head = next((each for each in heads if each), 0)
    if not head or head % ROTATED:
        return None
    side = ROTATED
    while largest and len(set(filter(None, heads))) == 1 and head % (2 * side) == 0:
        side *= 2
    return ggml.graph_input(F32, side, side, name="rot")


def attend(
    b: Builder, inp: AttentionInput, il: int, q: Tensor, k: Tensor | None, v: Tensor | None, cache_of: int | None = None
) -> Tensor:
    """Write keys and values into the cache, attend to what is in it; the output map is not applied yet."""
    if inp.k_rot is not None:
        q = _rotate(q, inp.k_rot)
        k = _rotate(k, inp.k_rot) if k is not None else None
    if inp.v_rot is not None and v is not None:
        v = _rotate(v, inp.v_rot)
    b.graph.expand(q)
    ordered = (v, k) if b.setup.build.values_first and not any(b.setup.hparams.swa) else (k, v)
    for each in ordered:
        if each is not None:
            b.graph.expand(each)
    place, turned = il if cache_of is None else cache_of, not b.setup.flash_attn
    sizes = b.setup.hparams
    heads, keys = sizes.n_head_kv[place], _cache(b, "k", inp, place)
    if k is not None:
        b.graph.expand(_write(keys, k, inp.k_idxs, False))
    if v is not None and not inp.latent:
        b.graph.expand(_write(_cache(b, "v", inp, place), v, inp.v_idxs, turned))
    seen = _read(keys, sizes.head_k[place], heads, inp.cells, False)
    if inp.latent:
        assert v is not None
        values = ggml.view(seen, v.ne[0], *seen.ne[1:], nb=seen.nb[1:])
    else:
        values = _read(_cache(b, "v", inp, place), sizes.head_v[place], heads, inp.cells, turned)
    cur = _mha(b, inp, il, q, seen, values)
    return _rotate(cur, inp.v_rot) if inp.v_rot is not None else cur


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    side = rotation.ne[0]
    count = x.ne[0] * x.ne[1] * x.ne[2] * x.ne[3] // side
    whole = x.nb == ggml.strides(x.type, x.ne)
    flat = ggml.reshape(x, side, count) if whole else ggml.cont(x, side, count)
    return ggml.reshape(ggml.mul_mat(rotation, flat), *x.ne)


def _cache(b: Builder, which: str, inp: AttentionInput, il: int) -> Tensor:
    name = f"cache_{which}_l{il}"
    if name not in b.found:
        setup, sizes = b.setup, b.setup.hparams
        width = sizes.n_head_kv[il] * (sizes.head_k if which == "k" else sizes.head_v)[il]
        if which == "v" and not setup.flash_attn:
            width = _widest_values(b)
        kind = setup.type_k if which == "k" else setup.type_v
        device = setup.kv_devices[il] if setup.kv_devices else CPU
        b.found[name] = ggml.stored(kind, (width, inp.cells, setup.n_streams), device, False, name)
    return b.found[name]


def _write(cache: Tensor, x: Tensor, rows: Tensor | None, turned: bool) -> Tensor:
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


def _read(cache: Tensor, dim: int, heads: int, cells: int, turned: bool) -> Tensor:
    kind, (width, size, streams) = cache.type, cache.ne[:3]
    if turned:
        steps = (size * dim * kind.size, size * kind.size, size * width * kind.size)
        return ggml.view(cache, cells, heads, dim, streams, nb=steps)
    row = kind.row_bytes(width)
    return ggml.view(cache, dim, heads, cells, streams, nb=(kind.row_bytes(dim), row, row * size))


def _mha(b: Builder, inp: AttentionInput, il: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores, softmax and their product with the values; one kernel with flash attention."""
    setup, streams = b.setup, k.ne[3]
    turned = v.nb[1] > v.nb[2]
    per_stream = q.ne[2] // streams
    q = ggml.view(q, q.ne[0], q.ne[1], per_stream, streams, nb=(q.nb[1], q.nb[2], q.nb[2] * per_stream))
    q, k, v = (ggml.permute(each, 0, 2, 1, 3) for each in (q, k, v))
    sinks, latent_v = b.weight("attn_sinks", il), _latent_values(b, il)
    if setup.flash_attn:
        v = ggml.transpose(v) if turned else v
        k, v = (ggml.cast(each, F16) if each.type is F32 else each for each in (k, v))
        cur = ggml.flash_attn(q, k, v, _kernel_mask(b, inp), sinks)
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
    return b.graph.expand(cur)


def _latent_values(b: Builder, il: int) -> Tensor | None:
    return b.weight("attn_v_b", il)


def _kernel_mask(b: Builder, inp: AttentionInput) -> Tensor:
    if b.setup.build.mask_f16:
        return inp.mask
    if inp.for_kernel is None:
        inp.for_kernel = ggml.cast(inp.mask, F16)
    return inp.for_kernel
