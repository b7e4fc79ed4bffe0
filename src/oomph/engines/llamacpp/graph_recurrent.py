"""Graphs of models whose layers keep a state: Mamba, Mamba 2, gated delta nets, short convolutions, attention between.

Source: src/models/mamba-base.cpp, mamba.cpp, delta-net-base.cpp, qwen3next.cpp, qwen35.cpp, qwen35moe.cpp and lfm2.cpp
of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Callable

from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import F32, I32, Graph, Tensor
from oomph.engines.llamacpp.graph_attention import AttentionInput, attend, attention_input
from oomph.engines.llamacpp.graph_dense import Frame, attention, feed_forward
from oomph.engines.llamacpp.graph_parts import Builder
from oomph.engines.llamacpp.graph_setup import CPU


class States:
    """The states of all sequences: which of them a batch reads, and how they are read and written."""

    def __init__(self, b: Builder) -> None:
        self.b, self.n_seqs = b, b.n_seqs
        self.copies = ggml.graph_input(I32, b.setup.n_seq_max, name="s_copy")
        self.n_others = b.setup.n_seq_max - b.n_seqs
        self.of_batch = ggml.view(self.copies, b.n_seqs)
        # Those that a batch does not have; what is read at once beside a recurrence is one less than all.
        self.of_others = ggml.view(self.copies, b.setup.n_seq_max - (1 if b.setup.build.whole_states else b.n_seqs))

    def stored(self, kind: str, il: int, width: int) -> Tensor:
        """The states of a layer: of its convolution ("r") or of its recurrence ("s")."""
        places = self.b.setup.kv_devices
        return ggml.stored(F32, (width, self.b.setup.n_seq_max), places[il] if places else CPU, False, f"cache_{kind}")

    def read(self, states: Tensor, rows: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """Clear what has to be cleared, read the batch's states (or run `rows` on them), move the others: build_rs."""
        expand, width = self.b.graph.expand, states.ne[0]
        all_of_them = ggml.reshape(states, width, states.ne[1])
        zero = ggml.view(all_of_them, width)
        expand(ggml.Tensor("SCALE", zero.type, zero.ne, zero.nb, [zero], view=zero.owner))
        read = rows or ggml.get_rows
        if not self.b.setup.build.whole_states:
            found = expand(read(all_of_them, self.of_batch))
            others = ggml.get_rows(all_of_them, self.of_others)
        elif rows is None:
            every = ggml.get_rows(all_of_them, self.copies)
            found = expand(ggml.view(every, width, self.n_seqs))
            others = ggml.view(every, width, self.n_others)
        else:
            found = expand(read(all_of_them, self.of_batch))
            others = ggml.view(ggml.get_rows(all_of_them, self.of_others), width, self.n_others)
        expand(ggml.cpy(others, ggml.view(states, width, self.n_others, nb=(states.nb[1],))))
        return found

    def write(self, new: Tensor, states: Tensor) -> None:
        """Write the batch's states back."""
        part = ggml.view(states, states.ne[0], self.n_seqs, nb=(states.nb[1],))
        self.b.graph.expand(ggml.cpy(new, part))

    def convolve(self, x: Tensor, il: int, kernel: int) -> Tensor:
        """Put a convolution's last inputs before x [channels, tokens, sequences]; keep the newest for the next
        batch."""
        channels = x.ne[0]
        states = self.stored("r", il, (kernel - 1) * channels)
        before = ggml.reshape(self.read(states), kernel - 1, channels, self.n_seqs)
        whole = ggml.concat(before, ggml.transpose(x), 0)
        self.write(ggml.view(whole, kernel - 1, channels, self.n_seqs, nb=whole.nb[1:3]), states)
        return whole


def ssm_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """A convolution along the tokens of each channel."""
    return ggml.new(F32, kernel.ne[1], x.ne[0] - kernel.ne[0] + 1, x.ne[2], op="SSM_CONV", src=(x, kernel))


def _in_sequences(b: Builder, x: Tensor) -> Tensor:
    return ggml.reshape(x, x.ne[0], b.n_tokens // b.n_seqs, b.n_seqs)


def mamba(b: Builder) -> Graph:
    """Build Mamba and Mamba 2."""
    x = b.inp_embd()
    states = States(b)
    layer = _mamba2 if b.setup.arch == "mamba2" else _mamba1
    for il in b.layers():
        cur = layer(b, states, b.norm(x, "attn_norm", il), il)
        if il == b.n_layer - 1:
            cur, x = ggml.get_rows(cur, b.out_ids), ggml.get_rows(x, b.out_ids)
        x = ggml.like(cur, "ADD", x)
    return b.logits(x)


def _scan(b: Builder, states: States, il: int, x: Tensor, others: tuple[Tensor, ...], shape: tuple[int, ...]) -> Tensor:
    """The recurrence: outputs and last states in one tensor; the states are stored."""
    sizes, n = b.setup.hparams, b.setup.n_seq_max
    width = sizes.state_size * sizes.inner_size
    stored = states.stored("s", il, width)
    count = x.ne[0] * x.ne[1] * x.ne[2] * x.ne[3]

    def rows(all_of_them: Tensor, ids: Tensor) -> Tensor:
        first = ggml.reshape(all_of_them, *shape, n)
        return ggml.new(F32, count + width * ids.ne[0], op="SSM_SCAN", src=(first, x, *others, ids))

    y = states.read(stored, rows)
    states.write(ggml.view(y, width * states.n_seqs), stored)
    return y


def _mamba1(b: Builder, states: States, x: Tensor, il: int) -> Tensor:
    sizes = b.setup.hparams
    inner, state, rank = sizes.inner_size, sizes.state_size, sizes.time_step_rank
    n, seqs = b.n_tokens // b.n_seqs, b.n_seqs
    kept = states.stored("r", il, (sizes.conv_kernel - 1) * inner)
    before = ggml.reshape(states.read(kept), sizes.conv_kernel - 1, inner, seqs)
    xz = b.mm("ssm_in", _in_sequences(b, x), il)
    first, gate = (ggml.view(xz, inner, n, seqs, nb=xz.nb[1:3]) for _ in range(2))
    whole = ggml.concat(before, ggml.transpose(first), 0)
    states.write(ggml.view(whole, sizes.conv_kernel - 1, inner, seqs, nb=whole.nb[1:3]), kept)
    cur = ggml.unary(b.plus(ssm_conv(whole, b.the("ssm_conv1d", il)), "ssm_conv1d", il))
    both = b.mm("ssm_x", cur, il)
    step = ggml.view(both, rank, n, seqs, nb=both.nb[1:3])
    nb = (state * both.nb[0], both.nb[1], both.nb[2])
    b_, c_ = (ggml.view(both, state, 1, n, seqs, nb=nb) for _ in range(2))
    if b.weight("ssm_dt_norm", il) is not None:
        step, b_, c_ = b.norm(step, "ssm_dt_norm", il), b.norm(b_, "ssm_b_norm", il), b.norm(c_, "ssm_c_norm", il)
    else:
        step = ggml.cont(step)
    step = b.mm("ssm_dt", step, il)
    heads = ggml.reshape(cur, 1, inner, n, seqs)
    y = _scan(b, states, il, heads, (step, b.the("ssm_a", il, ""), b_, c_), (state, 1, inner))
    y = ggml.view(y, inner, n, seqs, nb=heads.nb[2:4])
    y = ggml.like(y, "ADD", ggml.like(cur, "MUL", b.the("ssm_d", il, "")))
    out = b.mm("ssm_out", ggml.glu(ggml.cont(gate), y), il)
    return ggml.reshape(out, out.ne[0], n * seqs)


def _mamba2(b: Builder, states: States, x: Tensor, il: int) -> Tensor:
    sizes = b.setup.hparams
    inner, state, heads, groups = sizes.inner_size, sizes.state_size, sizes.time_step_rank, sizes.group_count
    dim, n, seqs, width = inner // heads, b.n_tokens // b.n_seqs, b.n_seqs, inner + 2 * groups * state
    kept = states.stored("r", il, (sizes.conv_kernel - 1) * width)
    before = ggml.reshape(states.read(kept), sizes.conv_kernel - 1, width, seqs)
    mixed = _in_sequences(b, b.mm("ssm_in", x, il))
    gate = ggml.view(mixed, dim, heads, n, seqs, nb=(dim * F32.size, mixed.nb[1], mixed.nb[2]))
    xbc = ggml.view(mixed, width, n, seqs, nb=mixed.nb[1:3])
    step = ggml.view(mixed, heads, n, seqs, nb=mixed.nb[1:3])
    whole = ggml.concat(before, ggml.transpose(xbc), 0)
    states.write(ggml.view(whole, sizes.conv_kernel - 1, width, seqs, nb=whole.nb[1:3]), kept)
    xbc = ggml.unary(b.plus(ssm_conv(whole, b.the("ssm_conv1d", il)), "ssm_conv1d", il))
    cur = ggml.view(xbc, dim, heads, n, seqs, nb=(dim * F32.size, xbc.nb[1], xbc.nb[2]))
    nb = (state * F32.size, xbc.nb[1], xbc.nb[2])
    b_, c_ = (ggml.view(xbc, state, groups, n, seqs, nb=nb) for _ in range(2))
    step = ggml.like(ggml.cont(step), "ADD", b.the("ssm_dt", il, "bias"))
    y = _scan(b, states, il, cur, (step, b.the("ssm_a", il, ""), b_, c_), (state, dim, heads))
    y = ggml.view(y, dim, heads, n, seqs, nb=(cur.nb[1], heads * cur.nb[1], n * heads * cur.nb[1]))
    y = ggml.like(y, "ADD", ggml.like(cur, "MUL", b.the("ssm_d", il, "")))
    y = ggml.glu(ggml.cont(gate), y)
    if b.weight("ssm_norm", il) is not None:
        y = b.norm(ggml.reshape(y, inner // groups, groups, n, seqs), "ssm_norm", il)
    return b.mm("ssm_out", ggml.reshape(y, inner, n * seqs), il)


def delta_net(b: Builder) -> Graph:
    """Build Qwen3-Next and Qwen3.5: gated delta nets, every fourth layer gated attention, experts or not."""
    x = b.inp_embd()
    states, inp = States(b), attention_input(b)
    for il in b.layers():
        cur = b.graph.expand(b.norm(x, "attn_norm", il))
        recurrent = b.setup.hparams.recurrent[il]
        cur = _delta_layer(b, states, cur, il) if recurrent else _gated_attention(b, inp, cur, il)
        if il == b.n_layer - 1 and not b.setup.build.late_rows:
            cur, x = ggml.get_rows(cur, b.out_ids), ggml.get_rows(x, b.out_ids)
        middle = ggml.like(cur, "ADD", x)
        cur = feed_forward(b, Frame(), b.norm(middle, "post_attention_norm", il), il)
        x = ggml.like(cur, "ADD", middle)
    return b.logits(x, rows=b.setup.build.late_rows)


def _gated_attention(b: Builder, inp: AttentionInput, x: Tensor, il: int) -> Tensor:
    sizes, n = b.setup.hparams, b.n_tokens
    dim, heads, kv_heads = sizes.head_k[il], sizes.n_head[il], sizes.n_head_kv[il]
    both, k, v = b.qkv(x, il, split=False)
    both = ggml.reshape(both, 2 * dim, heads, n) if b.setup.arch == "qwen3next" else both
    step = 2 * dim * F32.size
    q, gate = (ggml.view(both, dim, heads, n, nb=(step, step * heads)) for _ in range(2))
    k, v = ggml.reshape(k, dim, kv_heads, n), ggml.reshape(v, dim, kv_heads, n)
    q, k = b.rope(b.norm(q, "attn_q_norm", il), il), b.rope(b.norm(k, "attn_k_norm", il), il)
    cur = attend(b, inp, il, q, k, v)
    cur = ggml.like(cur, "MUL", ggml.unary(ggml.cont(gate, dim * heads, n)))
    return b.mm("attn_output", cur, il)


def _delta_layer(b: Builder, states: States, x: Tensor, il: int) -> Tensor:
    sizes = b.setup.hparams
    k_dim, k_heads, v_heads = sizes.state_size, sizes.group_count, sizes.time_step_rank
    v_dim, n, seqs = sizes.inner_size // v_heads, b.n_tokens // b.n_seqs, b.n_seqs
    mixed = _in_sequences(b, b.mm("attn_qkv", x, il))
    z = b.mm("attn_gate", x, il)
    if b.weight("ssm_ba", il) is not None:
        per_head = v_heads // k_heads
        ba = ggml.reshape(b.mm("ssm_ba", x, il), 2 * per_head, k_heads, n, seqs)
        beta, alpha = (ggml.view(ba, per_head, k_heads, n, seqs, nb=ba.nb[1:4]) for _ in range(2))
        beta = ggml.reshape(ggml.unary(ggml.cont(beta)), 1, v_heads, n, seqs)
        alpha = ggml.cont(alpha, v_heads, n, seqs)
    else:
        beta = ggml.unary(ggml.reshape(b.mm("ssm_beta", x, il), 1, v_heads, n, seqs))
        alpha = ggml.reshape(b.mm("ssm_alpha", x, il), v_heads, n, seqs)
    decay = ggml.unary(ggml.like(alpha, "ADD", b.the("ssm_dt", il, "bias")))
    decay = ggml.reshape(ggml.like(decay, "MUL", b.the("ssm_a", il, "")), 1, v_heads, n, seqs)
    whole = states.convolve(mixed, il, sizes.conv_kernel)
    stored = states.stored("s", il, k_dim * sizes.inner_size)
    state = ggml.reshape(states.read(stored), v_dim, v_dim, v_heads, seqs)
    qkv = ggml.unary(ssm_conv(whole, b.the("ssm_conv1d", il)))
    row = qkv.nb[1]
    q, k = (
        ggml.like(ggml.like(ggml.view(qkv, k_dim, k_heads, n, seqs, nb=(k_dim * F32.size, row, row * n)), "RMS_NORM"),
                  "SCALE")
        for _ in range(2)
    )  # fmt: skip
    v = ggml.view(qkv, v_dim, v_heads, n, seqs, nb=(v_dim * F32.size, row, row * n))
    if k_heads != v_heads and b.setup.arch == "qwen3next":
        q, k = (_repeated(each, v_heads, n, seqs) for each in (q, k))
    both = ggml.new(F32, v_dim * v_heads, n * seqs + v_dim * seqs, op="GATED_DELTA_NET",
                    src=(q, k, v, decay, beta, state))  # fmt: skip
    out = ggml.view(both, v_dim, v_heads, n, seqs, nb=(v_dim * F32.size, both.nb[1], both.nb[1] * n))
    states.write(ggml.view(both, v_dim, v_dim, v_heads, seqs), stored)
    gate = ggml.unary(ggml.reshape(z, v_dim, v_heads, n, seqs))
    out = ggml.like(b.norm(out, "ssm_norm", il), "MUL", gate)
    out = b.mm("ssm_out", ggml.reshape(out, v_dim * v_heads, n, seqs), il)
    return ggml.reshape(out, out.ne[0], n * seqs)


def _repeated(x: Tensor, heads: int, n: int, seqs: int) -> Tensor:
    """Heads of queries or keys, each as often as there are value heads to it."""
    dim, of = x.ne[:2]
    apart = ggml.reshape(x, dim, 1, of, n * seqs)
    return ggml.reshape(ggml.repeat(apart, dim, heads // of, of, n * seqs), dim, heads, n, seqs)


def lfm2(b: Builder) -> Graph:
    """Build LFM2: gated short convolutions, attention between, a dense layer or experts in each."""
    x = b.inp_embd()
    states, inp = States(b), attention_input(b)
    for il in b.layers():
        cur = b.norm(x, "attn_norm", il)
        recurrent = b.setup.hparams.recurrent[il]
        cur = _short_conv(b, states, cur, il) if recurrent else attention(b, Frame(), inp, cur, il)
        if il == b.n_layer - 1:
            cur, x = ggml.get_rows(cur, b.out_ids), ggml.get_rows(x, b.out_ids)
        middle = ggml.like(x, "ADD", cur)
        x = ggml.like(middle, "ADD", feed_forward(b, Frame(), b.norm(middle, "ffn_norm", il), il))
    return b.logits(x)


def _short_conv(b: Builder, states: States, x: Tensor, il: int) -> Tensor:
    n, seqs, kernel = b.n_tokens // b.n_seqs, b.n_seqs, b.setup.hparams.conv_kernel
    mixed = b.mm("shortconv.in_proj", _in_sequences(b, x), il)
    width = mixed.ne[0] // 3  # before, after and between: the input's gate, the output's gate, the input
    before, after, inner = (ggml.view(mixed, width, n, seqs, nb=mixed.nb[1:3]) for _ in range(3))
    whole = states.convolve(ggml.like(before, "MUL", inner), il, kernel)
    out = ggml.like(after, "MUL", ssm_conv(whole, b.the("shortconv.conv", il)))
    out = b.mm("shortconv.out_proj", out, il)
    return ggml.reshape(out, out.ne[0], n * seqs)


GRAPHS: dict[str, Callable[[Builder], Graph]] = {
    "mamba": mamba,
    "mamba2": mamba,
    "qwen3next": delta_net,
    "qwen35": delta_net,
    "qwen35moe": delta_net,
    "lfm2": lfm2,
    "lfm2moe": lfm2,
}
