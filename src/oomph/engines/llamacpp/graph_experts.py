"""Experts of llama.cpp's graphs: the router, each chosen expert on each token, their weighted sum.

Source: build_moe_ffn of src/llama-graph.cpp, llama.cpp 0c1e57098.
"""

from __future__ import annotations

from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import Tensor
from oomph.engines.llamacpp.graph_parts import Builder

GATES = {"softmax": ggml.soft_max, "sigmoid": ggml.unary}


def moe(
    b: Builder, x: Tensor, il: int, logits: Tensor | None = None, norm: bool | None = None, weighed_before: bool = False
) -> Tensor:
    """Experts: the router's choice, each chosen expert on each token, their weighted sum.

    `weighed_before`: tokens are multiplied by the weights instead of what experts make of them (Llama 4).
    """
    sizes = b.setup.hparams
    weights, chosen = _route(b, x, il, logits, sizes.norm_weights if norm is None else norm, weighed_before)
    used, n = chosen.ne[0], b.n_tokens if x.ne[1] == b.n_tokens else x.ne[1]
    cur = ggml.reshape(x, x.ne[0], 1, n)
    cur = ggml.like(ggml.repeat(cur, x.ne[0], used, n), "MUL", weights) if weighed_before else cur
    if b.weight("ffn_gate_up_exps", il) is not None:
        both = _mm_id(b, "ffn_gate_up_exps", cur, il, chosen)
        half = both.ne[0] // 2
        gate, up = (ggml.view(both, half, both.ne[1], both.ne[2], nb=both.nb[1:3]) for _ in range(2))
        hidden = ggml.glu(gate, up)
    else:
        up = _mm_id(b, "ffn_up_exps", cur, il, chosen)
        gated = b.weight("ffn_gate_exps", il) is not None
        hidden = ggml.like(ggml.unary(up), "SQR")
        hidden = ggml.glu(_mm_id(b, "ffn_gate_exps", cur, il, chosen), up) if gated else hidden
    experts = _mm_id(b, "ffn_down_exps", hidden, il, chosen)
    experts = experts if weighed_before else ggml.like(experts, "MUL", weights)
    b.graph.expand(experts)
    parts = [ggml.view(experts, x.ne[0], n, nb=(experts.nb[2],)) for _ in range(used)]
    for each in parts:
        b.graph.expand(each)
    total = parts[0]
    for each in parts[1:]:
        total = b.graph.expand(ggml.like(total, "ADD", each))
    return ggml.cont(total) if used == 1 else total


def _mm_id(b: Builder, name: str, x: Tensor, il: int, chosen: Tensor) -> Tensor:
    """Multiply by the chosen experts' matrices; their scales and biases where the file has them."""
    cur = ggml.mul_mat_id(b.the(name, il), x, chosen)
    scale, bias = b.weight(name, il, "scale"), b.weight(name, il, "bias")
    if scale is not None:
        of_tokens = ggml.repeat(ggml.reshape(scale, 1, scale.ne[0], 1), 1, scale.ne[0], x.ne[2])
        cur = ggml.like(cur, "MUL", ggml.get_rows(of_tokens, chosen))
    cur = b.adapted(cur, name, il, x, chosen)
    return cur if bias is None else ggml.like(cur, "ADD_ID", bias, chosen)


def _route(b: Builder, x: Tensor, il: int, logits: Tensor | None, norm: bool, by_logits: bool) -> tuple[Tensor, Tensor]:
    """The router: weights [1, used, tokens] and numbers [used, tokens] of the experts chosen."""
    sizes, n = b.setup.hparams, x.ne[1]
    if logits is None:
        logits = b.mm("ffn_gate_inp", x, il)
    probs = logits if sizes.gating == "softmax_weight" else GATES[sizes.gating](logits)
    n_expert, used = probs.ne[0], sizes.n_expert_used
    selection = logits if by_logits else b.plus(probs, "exp_probs_b", il)
    if sizes.n_expert_groups > 1:
        selection = _in_groups(b, selection)
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
    return b.graph.expand(weights), chosen


def _in_groups(b: Builder, probs: Tensor) -> Tensor:
    """DeepSeek-V3's choice of groups of experts, the others' scores masked."""
    sizes, (n_expert, n) = b.setup.hparams, probs.ne[:2]
    groups = sizes.n_expert_groups
    grouped = ggml.reshape(probs, n_expert // groups, groups, n)
    best = ggml.top_k(grouped, 2)
    scores = ggml.get_rows(ggml.reshape(grouped, 1, *grouped.ne[:3]), best)
    scores = ggml.sum_rows(ggml.reshape(scores, *scores.ne[1:4]))
    chosen = ggml.top_k(ggml.reshape(scores, scores.ne[1], scores.ne[2]), sizes.n_group_used)
    kept = ggml.get_rows(grouped, chosen)
    return ggml.reshape(ggml.set_rows(ggml.like(grouped, "FILL"), kept, chosen), n_expert, n)
