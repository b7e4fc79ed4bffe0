"""ik_llama.cpp's graph of DeepSeek's latent attention, in the ways that -mla asks for.

0: keys and values of every head are kept. 1: the latent is, and read as it is. 2 and 3: the same, but for batches the
keys and values of the heads are made of it, so many heads at a time as -amb allows. Source: src/graphs/build_deepseek2
.cpp of ik_llama.cpp 8337e4cd, src/llama.cpp (build_deepseek2) of 18eeb489.
"""

from __future__ import annotations

from oomph.engines.ik.parts import IkBuilder
from oomph.engines.ik.setup import Latent, of_both, of_keys
from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import F16, F32, Graph, Tensor
from oomph.engines.llamacpp.graph_setup import CPU
from oomph.formats.gguf_types import GgmlType

LARGE_BATCH = 128  # tokens from which a batch counts as a prompt


def deepseek2(b: IkBuilder) -> Graph:
    """Build DeepSeek V2, V3 and their kin."""
    x = b.inp_embd()
    mask = b.mask()
    for il in b.layers():
        cur = _attention(b, mask, b.norm(x, "attn_norm", il), il)
        if il == b.n_layer - 1:
            cur, x = ggml.get_rows(cur, b.out_ids), ggml.get_rows(x, b.out_ids)
        middle = ggml.like(cur, "ADD", x)
        cur = b.feed_forward(b.norm(middle, "ffn_norm", il), il, b.setup.hparams.norm_weights, scale=_scaled(b))
        x = ggml.like(cur, "ADD", middle)
    return b.end(x)


def _scaled(b: IkBuilder) -> bool:
    """Whether experts' weights are multiplied by a number; newer builds leave out a number of 1, as DeepSeek V2 Lite
    has it, which has no low-rank map of queries."""
    return not b.setup.of_ik.late or b.setup.hparams.scale_weights or b.weight("attn_q_a", 0) is not None


def _attention(b: IkBuilder, mask: Tensor, x: Tensor, il: int) -> Tensor:
    n = b.n_tokens
    late, low_rank = b.setup.of_ik.late, b.weight("attn_q_a", il) is not None
    q = b.mm("attn_q_a" if low_rank else "attn_q", x, il)
    both = b.mm("attn_kv_a_mqa", x, il)
    if late:
        b.graph.expand(q)
        b.graph.expand(both)
    if low_rank:
        q = b.mm("attn_q_b", b.norm(q, "attn_q_a_norm", il), il)
    dims = Latent.of(b.setup, il)
    heads, rope, head = dims.heads, dims.rope, dims.rope + dims.plain
    steps = head * F32.size, head * heads * F32.size
    q_plain = ggml.view(q, dims.plain, heads, n, nb=steps)
    q_rope = ggml.view(q, rope, heads, n, nb=steps)
    k_rope = ggml.view(both, rope, 1, n, nb=(both.nb[1], both.nb[1]))
    if late:
        b.graph.expand(q_rope)
        b.graph.expand(k_rope)
    q_rope, k_rope = b.rope(q_rope, il), b.rope(k_rope, il)
    if late:
        b.graph.expand(q_rope)
        b.graph.expand(k_rope)
    latent = b.norm(ggml.view(both, dims.rank, n, nb=(both.nb[1],)), "attn_kv_a_norm", il)
    if not b.setup.mla:
        return _heads_kept(b, mask, dims, il, q_plain, q_rope, k_rope, latent)
    kept = _write(b, dims, il, k_rope, latent)
    if b.setup.mla > 1 and b.setup.flash_attn and n >= LARGE_BATCH:
        cur = _of_prompts(b, mask, dims, il, q_plain, q_rope)
    else:
        cur = _absorbed(b, mask, dims, il, q_plain, q_rope, kept)
    return b.mm("attn_output", b.graph.expand(cur), il)


def _heads_kept(
    b: IkBuilder, mask: Tensor, d: Latent, il: int, q_plain: Tensor, q_rope: Tensor, k_rope: Tensor, latent: Tensor
) -> Tensor:
    """Attention as in other models, on keys and values made of the latent of the batch."""
    n, both = b.n_tokens, d.plain + d.value
    kv = ggml.mul_mat(_kv_b(b, d, il), latent)
    steps = both * F32.size, d.heads * both * F32.size
    k_plain = ggml.view(kv, d.plain, d.heads, n, nb=steps)
    values = ggml.cont(ggml.view(kv, d.value, d.heads, n, nb=steps))
    values = ggml.view(values, d.value * d.heads, n)
    query = ggml.concat(q_plain, q_rope, 0)
    key = ggml.concat(k_plain, ggml.repeat(k_rope, *q_rope.ne), 0)
    return b.kv(mask, il, query, key, values)


def _write(b: IkBuilder, d: Latent, il: int, k_rope: Tensor, latent: Tensor) -> Tensor | None:
    """Write the latent into the cache; return its transposed copy, where there is one."""
    n, cells = b.n_tokens, b.setup.cells
    turned = None
    if b.setup.mla == 1 and not b.setup.flash_attn:
        values = b.cache("v", il)
        row = values.type.row_bytes(cells)
        b.graph.expand(ggml.cpy(ggml.transpose(latent), ggml.view(values, n, d.rank, nb=(row,))))
        turned = ggml.view(values, cells, d.rank, nb=(row,))
    both = ggml.concat(ggml.permute(k_rope, 0, 2, 1, 3), latent, 0)
    keys = b.cache("k", il)
    b.graph.expand(ggml.cpy(both, ggml.view(keys, keys.ne[0], n, nb=(keys.nb[1],))))
    return turned


def _of_prompts(b: IkBuilder, mask: Tensor, d: Latent, il: int, q_plain: Tensor, q_rope: Tensor) -> Tensor:
    """Keys and values of some heads made of the whole cache, their attention, then the next heads."""
    keys, cells, n = b.cache("k", il), b.setup.cells, b.n_tokens
    kv_b = _kv_b(b, d, il)
    at_once = d.at_once(b.setup)
    kind = F16 if len(b.setup.devices) > 1 else keys.type
    latent = ggml.view(keys, d.rank, cells, nb=(keys.nb[1],))
    k_rope = ggml.view(keys, d.rope, cells, 1, nb=keys.nb[1:3])
    if keys.type is not kind:
        k_rope = ggml.cast(k_rope, F16)
    k_rope = ggml.repeat(k_rope, d.rope, cells, at_once)
    query = b.graph.expand(ggml.permute(ggml.concat(q_rope, q_plain, 0), 0, 2, 1, 3))
    width, found = d.plain + d.value, None
    for _ in range(d.heads // at_once):
        of_heads = ggml.view(kv_b, kv_b.ne[0], width * at_once, nb=(kv_b.nb[1],))
        kv = ggml.mul_mat(of_heads, latent)
        steps = at_once * width * F32.size, width * F32.size
        v = ggml.cast(ggml.view(kv, d.value, cells, at_once, nb=steps), kind)
        k_plain = ggml.cast(ggml.view(kv, d.plain, cells, at_once, nb=steps), kind)
        b.graph.expand(k_plain)
        b.graph.expand(v)
        k = b.graph.expand(ggml.concat(k_rope, k_plain, 0))
        some = ggml.view(query, query.ne[0], query.ne[1], at_once, nb=query.nb[1:3])
        part = ggml.reshape(ggml.flash_attn(some, k, v, mask), d.value * at_once, n)
        found = part if found is None else ggml.concat(found, part, 0)
        if b.setup.of_ik.late:
            b.graph.expand(found)
    assert found is not None
    return found


def _absorbed(
    b: IkBuilder, mask: Tensor, d: Latent, il: int, q_plain: Tensor, q_rope: Tensor, turned: Tensor | None
) -> Tensor:
    """Attention on the latent itself: the maps to keys and values are applied to queries and outputs."""
    keys, cells, n = b.cache("k", il), b.setup.cells, b.n_tokens
    cache = ggml.view(keys, d.rank + d.rope, cells, nb=(keys.nb[1],))
    absorbed = ggml.mul_mat(_k_b(b, d, il), ggml.permute(q_plain, 0, 2, 1, 3))
    query = ggml.concat(ggml.permute(q_rope, 0, 2, 1, 3), absorbed, 0)
    if b.setup.flash_attn and b.setup.mla != 2:
        latent = ggml.view(keys, d.rank, cells, nb=(keys.nb[1],))
        out = ggml.permute(ggml.flash_attn(query, cache, latent, mask), 0, 2, 1, 3)
    else:
        if turned is None:
            turned = ggml.cont(ggml.transpose(ggml.view(keys, d.rank, cells, nb=(keys.nb[1],))))
        out = _scored(b, mask, d, query, cache, turned)
    out = ggml.cont(ggml.permute(ggml.mul_mat(_v_b(b, d, il), out), 0, 2, 1, 3))
    return ggml.view(out, d.value * d.heads, n)


def _scored(b: IkBuilder, mask: Tensor, d: Latent, query: Tensor, cache: Tensor, turned: Tensor) -> Tensor:
    """Scores of all heads at once, or of so many as -amb allows."""
    heads, per_step = d.heads, d.scored_at_once(b.setup)
    if per_step == heads:
        prompt = b.n_tokens >= LARGE_BATCH and (b.setup.mla > 1 or not b.setup.of_ik.late)
        kq = ggml.mul_mat(cache, query if prompt else ggml.permute(query, 0, 2, 1, 3))
        kq = kq if prompt else ggml.cont(ggml.permute(kq, 0, 2, 1, 3))
        kq = ggml.soft_max(kq, mask)
        out = ggml.mul_mat(turned, kq if prompt else ggml.permute(kq, 0, 2, 1, 3))
        return out if prompt else ggml.permute(out, 0, 2, 1, 3)
    found: Tensor | None = None
    for at in range(0, heads, per_step):
        some = ggml.view(query, query.ne[0], query.ne[1], min(per_step, heads - at), nb=query.nb[1:3])
        part = ggml.mul_mat(turned, ggml.soft_max(ggml.mul_mat(cache, some), mask))
        found = b.graph.expand(part if found is None else ggml.concat(found, part, 2))
    assert found is not None
    return found


def _kv_b(b: IkBuilder, d: Latent, il: int) -> Tensor:
    """The map to keys and values of all heads; made when the model is loaded, where the file has it in two parts."""
    there = b.weight("attn_kv_b", il)
    if there is not None:
        return there
    k_b, v_b = b.the("attn_k_b", il), b.the("attn_v_b", il)
    return _made(
        b, f"blk.{il}.attn_kv_b.weight", of_both(k_b.type, v_b.type), k_b, d.rank, d.heads * (d.plain + d.value)
    )


def _k_b(b: IkBuilder, d: Latent, il: int) -> Tensor:
    """The map of queries onto the latent; made when the model is loaded, where the file has one for keys and values."""
    there = b.weight("attn_k_b", il)
    if there is not None:
        return there if there.ne[1] == d.rank else ggml.reshape(there, d.plain, d.rank, d.heads)
    both = b.the("attn_kv_b", il)
    return _made(b, f"blk.{il}.attn_k_b.weight", of_keys(both.type), both, d.plain, d.rank, d.heads)


def _v_b(b: IkBuilder, d: Latent, il: int) -> Tensor:
    """The map of latent outputs to those of heads, likewise."""
    there = b.weight("attn_v_b", il)
    if there is not None:
        return there if there.ne[1] == d.value else ggml.reshape(there, d.rank, d.value, d.heads)
    both = b.the("attn_kv_b", il)
    return _made(b, f"blk.{il}.attn_v_b.weight", both.type, both, d.rank, d.value, d.heads)


def _made(b: IkBuilder, name: str, kind: GgmlType, of: Tensor, *ne: int) -> Tensor:
    if name not in b.found:
        b.found[name] = ggml.stored(kind, ne, of.buffer or CPU, True, name)
    return b.found[name]
