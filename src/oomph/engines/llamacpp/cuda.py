"""What CUDA's kernels have llama.cpp's compute buffer hold beside the tensors of the graph.

Flash attention over a cache that is not F16 reads a copy that is, which lies behind its result. Kernels that do several
nodes of a mixture of experts at once read what came before the first of them until the last is done. Builds of early
2026 took those copies from the GPU's memory as they needed it. Source: fattn.cu, fattn-common.cuh and ggml-cuda.cu
(ggml_backend_cuda_graph_optimize) in ggml/src/ggml-cuda of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from oomph.engines.llamacpp.ggml import F16, Tensor

PADDED = 128  # bytes: where a copy begins
# Tokens of a sequence up to which the vector kernel reads quantised caches as they are, on every GPU.
FEW_TOKENS = 1
MOST_EXPERTS = 15  # MOE_WEIGHTED_REDUCTION_MAX_EXPERTS: of one token that are summed by one kernel
LARGEST_ROUTER = 512  # experts: routers of more, and of no power of two, are left to single kernels but for two
ODD_ROUTERS = (288, 576)
NORM = ("RESHAPE", "SUM_ROWS", "CLAMP", "DIV", "RESHAPE")


def flash_attn_bytes(result: Tensor) -> int:
    """Return what flash attention takes on a GPU: its result, and copies of keys and values in F16.

    512 tokens, 4 heads of 64 each, over 1024 cells of 2 heads in Q8_0:
    >>> from oomph.engines.llamacpp.ggml import BY_NAME, F32, flash_attn, new
    >>> cache = [new(BY_NAME["Q8_0"], 64, 1024, 2) for _ in range(2)]
    >>> flash_attn_bytes(flash_attn(new(F32, 64, 512, 4), *cache, new(F16, 1024, 512))) == 4 * 512 * 256 + 2 * 262144
    True
    """
    query, *caches = result.src[:3]
    end = result.n_bytes
    if query.ne[1] <= FEW_TOKENS:
        return end
    keys, values = caches
    for cache in (keys,) if values.owner is keys.owner else (keys, values):
        if cache.type is not F16:
            end = -(-end // PADDED) * PADDED + prod(cache.ne) * F16.size
    return end


def kept_until(nodes: Sequence[Tensor]) -> dict[Tensor, list[Tensor]]:
    """Return which tensors must not be freed before a node is computed, for the nodes of one split on a GPU."""
    found: dict[Tensor, list[Tensor]] = {}
    for start in range(len(nodes)):
        for until, kept in _weighted_sum(nodes, start), _router(nodes, start):
            if until is not None:
                there = found.setdefault(until, [])
                there += [each for each in dict.fromkeys(kept) if each not in there]
    return found


def _weighted_sum(nodes: Sequence[Tensor], start: int) -> tuple[Tensor | None, list[Tensor]]:
    """Experts' outputs times weights, as many views of them, their sum."""
    product = nodes[start]
    if product.op != "MUL" or len(product.src) < 2 or not 2 <= product.ne[1] <= MOST_EXPERTS:
        return None, []
    experts, weights = product.src
    used = product.ne[1]
    if experts.ne != product.ne or weights.ne != (1, *product.ne[1:]):
        return None, []
    views, sums = nodes[start + 1 : start + 1 + used], nodes[start + 1 + used : start + 2 * used]
    if not all(each.op == "VIEW" and each.view is product for each in views) or len(sums) < used - 1:
        return None, []
    if not all(each.op == "ADD" and each.src[1] is view for each, view in zip(sums, views[1:], strict=True)):
        return None, []
    return sums[-1], [experts, weights]


def _router(nodes: Sequence[Tensor], start: int) -> tuple[Tensor | None, list[Tensor]]:
    """A router's softmax or sigmoid, its choice, and the weights made of it: until the node after them."""
    first = nodes[start]
    experts = first.ne[0]
    if first.op not in ("SOFT_MAX", "UNARY") or len(first.src) != 1:
        return None, []
    if experts not in ODD_ROUTERS and (experts & (experts - 1) or experts > LARGEST_ROUTER):
        return None, []
    end = start + sum(1 for _ in _chain(nodes, start))
    if end == start or end >= len(nodes):
        return None, []
    return nodes[end], [each for node in nodes[start:end] for each in (node, *node.src)]


def _chain(nodes: Sequence[Tensor], start: int) -> Iterator[Tensor]:
    """Yield the router's nodes, none where this is no router."""
    ops = [node.op for node in nodes[start : start + 13]]
    for choice in (["RESHAPE", "ARGSORT", "VIEW", "GET_ROWS"], ["RESHAPE", "ADD", "ARGSORT", "VIEW", "GET_ROWS"]):
        length = 1 + len(choice)
        if ops[1:length] == choice:
            length += len(NORM) * (tuple(ops[length : length + len(NORM)]) == NORM)
            length += ops[length : length + 1] == ["SCALE"]
            yield from nodes[start : start + length]
            return
