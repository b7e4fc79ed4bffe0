"""Contrastive learning with GradCache: a batch as large as wanted, a mini-batch through the model at a time.

A first pass without gradients leaves every text's embedding. The loss of them all, some rows at a time, leaves each
embedding's gradient. Then each mini-batch goes through the model once more, and backward from its embeddings: that
happens in a hook, when the backward pass of a loss begins that has no graph behind it. Source: sentence-transformers
6.2, base/losses/gradcache.py (CachedLossMixin, _backward_hook), sentence_transformer/losses/
cached_multiple_negatives_ranking.py (its defaults).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from oomph import ops
from oomph.objectives.contrastive import cos_sim, counted
from oomph.objectives.embed import Features, collected, columns, embed
from oomph.objectives.passes import Passes, crossing
from oomph.ops.divergence import logsumexp_last
from oomph.ops.elementwise import add_scalar
from oomph.ops.slices import slice_axis
from oomph.stream import ROUND
from oomph.tape.autograd import backward
from oomph.tape.sizes import Size, settled, yes
from oomph.tape.sym import Sym

inputs = columns
FIRST = 3  # mini-batches that tell what all others but the last one do
FP32 = 4  # bytes of a number


class MiniBatches(NamedTuple):
    """From which text of a column to which it goes: one that is played, or many in a row that do as those before."""

    begin: Size
    end: Size
    count: Size = 1
    played: bool = True


def compute_loss(passes: Passes, inputs: Features) -> tuple[Sym, None]:
    """Mirror BaseTrainer.compute_loss."""
    features = collected(inputs)
    loss = _forward_cached(passes, features)
    return loss, None


def _forward_cached(passes: Passes, sentence_features: list[Features]) -> Sym:
    """Mirror CachedLossMixin.forward_cached: the loss without a graph, with a hook that makes the gradients."""
    ranges = _ranges(passes)
    reps = []
    with passes.tape.no_grad(), passes.named("caching"):
        for features in sentence_features:
            reps_mbs: list[Sym] = []
            for each in ranges:
                if each.played:
                    reps_mb = _embedded(passes, features, each)
                    reps_mbs.append(_leaf(reps_mb))
                else:
                    reps_mbs.append(_leaf(_left_behind(each, reps_mbs[0])))
            reps.append(reps_mbs)
    loss = _calculate_loss(passes, reps)
    loss = _leaf(loss)
    cache = [[rep.grad for rep in column] for column in reps]
    loss.backward_hook = partial(
        _backward_hook, passes=passes, sentence_features=sentence_features, cache=cache, ranges=ranges
    )
    return loss


def _leaf(x: Sym) -> Sym:
    """Mirror x.detach().requires_grad_()."""
    made = x.detach()
    made.requires_grad = True
    return made


def _ranges(passes: Passes) -> list[MiniBatches]:
    """Mirror _minibatch_ranges: how a column is cut up. Of many mini-batches the first and the last are played."""
    batch, size = passes.job.batch, passes.job.mini_batch_size
    last = (batch + size - 1) // size - 1
    many = yes(last > FIRST)
    first = FIRST if many else settled(last)
    return [
        *(MiniBatches(at * size, (at + 1) * size) for at in range(first)),
        *([MiniBatches(first * size, last * size, last - first, played=False)] * many),
        MiniBatches(last * size, batch),
    ]


def _left_behind(at: MiniBatches, like: Sym) -> Sym:
    """Return the embeddings of mini-batches that are not played, as those of others are."""
    return like.tape.empty((at.end - at.begin, *like.shape[1:]), like.dtype, op="cat")


def _embedded(passes: Passes, features: Features, at: MiniBatches) -> Sym:
    """Mirror embed_minibatch: the embeddings of a mini-batch [M, H]."""
    minibatch = {name: slice_axis(each, 0, at.begin, at.end) for name, each in features.items()}
    return embed(passes, minibatch)["sentence_embedding"]


def _calculate_loss(passes: Passes, reps: list[list[Sym]]) -> Sym:
    """Mirror CachedMultipleNegativesRankingLoss.calculate_loss, with backward passes: anchors, some at a time."""
    queries = ops.cat(reps[0], 0)
    docs = [ops.cat(column, 0) for column in reps[1:]]
    tape, docs_all = queries.tape, ops.cat(docs, 0)
    docs_pos = docs[0]
    local_indices = counted(tape, queries.shape[0])
    losses: list[Sym] = []
    for each in _ranges(passes):
        if not each.played:
            others = tape.empty((each.count, ROUND // FP32), "fp32", op="mean")  # noqa: F841  a block for each number
            continue
        local_batch = slice_axis(local_indices, 0, each.begin, each.end)
        row_indices = counted(tape, each.end - each.begin)
        local_queries = ops.take(queries, local_batch)
        local_docs = ops.take(docs_pos, local_batch)  # noqa: F841  lives to the next turn
        sim_matrices: dict[str, Sym] = {}
        sim_matrices["query_to_doc"] = cos_sim(passes, local_queries, docs_all)
        for key in sim_matrices:
            sim_matrices[key] = sim_matrices[key] * 1.0
        positive_scores = ops.index(sim_matrices["query_to_doc"], (row_indices, local_batch))
        all_scores = ops.cat(list(sim_matrices.values()), 1)
        log_z = logsumexp_last(all_scores)
        per_sample_loss = -(positive_scores - log_z)
        loss_mbatch = ops.mean_of_all(per_sample_loss) * 1.0 / 1.0
        backward(loss_mbatch)
        loss_mbatch = loss_mbatch.detach()
        losses.append(loss_mbatch)
    return _sum(losses)


def _sum(losses: list[Sym]) -> Sym:
    """Mirror sum(losses), which begins with 0."""
    found = add_scalar(losses[0])
    for each in losses[1:]:
        found = found + each
    return found


def _backward_hook(
    grad_output: Sym,
    *,
    passes: Passes,
    sentence_features: list[Features],
    cache: list[list[Any]],
    ranges: list[MiniBatches],
) -> None:
    """Mirror _backward_hook: each mini-batch once more, with a graph, and backward from what its embeddings get."""
    tape = passes.tape
    with tape.enable_grad():
        for features, column in zip(sentence_features, cache, strict=True):
            for each, grad_mb in zip(ranges, column, strict=True):
                if not each.played:
                    continue
                reps_mb = _embedded(passes, features, each)  # while those of the mini-batch before are still there
                surrogate = ops.dot(_flat(reps_mb), _flat(grad_mb)) * grad_output
                with crossing(tape):
                    backward(surrogate)


def _flat(x: Sym) -> Sym:
    """Mirror x.flatten().to(torch.float32)."""
    return ops.cast(ops.view(x, (x.shape[0] * x.shape[1],)), "fp32")
