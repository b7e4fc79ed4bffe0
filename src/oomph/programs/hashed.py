"""DeepSeek-V4's sparse block, with its local variables: experts picked by score, or looked up by a token's id.

Shape letters: T tokens, E experts, k experts of a token. Source: transformers 5.23,
models/deepseek_v4/modeling_deepseek_v4.py.
"""

from __future__ import annotations

from functools import partial

from oomph import ops
from oomph.tape.bound import Bound
from oomph.tape.sym import Sym

SCALE = 1.5  # of the weights; its value changes no byte


def deepseek_v4(m: Bound, hidden_states: Sym, input_ids: Sym | None) -> Sym:
    """Mirror DeepseekV4SparseMoeBlock.forward: the shared expert runs last, on what came in."""
    shape = hidden_states.shape
    residual = hidden_states
    flat = ops.view(hidden_states, (ops.rows(hidden_states), shape[-1]))
    router = m[m.router_name]
    _, weights, indices = router(
        hidden_states, partial(_hashed if "tid2eid" in router.parts else _scored, m, input_ids)
    )
    routed = ops.view(m[m.experts_name](flat, indices, weights), shape)
    output: Sym = routed + m.shared_experts(residual)
    return output


def _scored(m: Bound, input_ids: Sym | None, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror DeepseekV4TopKRouter.forward: the best scores with a correction."""
    flat = ops.view(hidden_states, (ops.rows(hidden_states), hidden_states.shape[-1]))
    logits = ops.linear(flat, router.value("weight"))
    scores = ops.activate(m.scoring, logits)
    indices = ops.topk(scores + router[router.correction], m.top_k)[1]
    weights = _normed(ops.gather(scores, indices))
    return logits, weights * SCALE, indices


def _hashed(m: Bound, input_ids: Sym | None, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror DeepseekV4HashRouter.forward: the experts of a token stand in a table."""
    flat = ops.view(hidden_states, (ops.rows(hidden_states), hidden_states.shape[-1]))
    logits = ops.linear(flat, router.value("weight"))
    scores = ops.activate(m.scoring, logits)
    assert input_ids is not None
    indices = ops.take(router.tid2eid, ops.view(input_ids, (ops.rows(flat),)))
    weights = _normed(ops.gather(scores, indices))
    return logits, weights * SCALE, indices


def _normed(weights: Sym) -> Sym:
    """Return weights [T, k] that add up to 1."""
    return ops.divide(weights, ops.sum_over(weights, -1, keepdim=True) + 1e-20)
