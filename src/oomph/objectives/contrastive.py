"""Contrastive learning of an embedding model: each anchor's positive against all texts of the batch.

Columns of a batch go through the model one by one, but positives and negatives, whose texts are of one kind, together.
A softmax over the cosines of an anchor with all positives and negatives of the batch is what is minimised. Source:
sentence-transformers 6.2, base/trainer.py (compute_loss), base/losses/merged_forward.py (embed_columns),
sentence_transformer/losses/multiple_negatives_ranking.py (its defaults).
"""

from __future__ import annotations

from oomph import ops
from oomph.objectives.embed import Features, collected, columns, embed
from oomph.objectives.passes import Passes
from oomph.ops.divergence import logsumexp_last
from oomph.ops.matmul import mm
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

inputs = columns


def compute_loss(passes: Passes, inputs: Features) -> tuple[Sym, None]:
    """Mirror BaseTrainer.compute_loss: what the model left with each column lives as long as this does."""
    features = collected(inputs)
    loss = _forward(passes, features)
    return loss, None


def _forward(passes: Passes, sentence_features: list[Features]) -> Sym:
    """Mirror MultipleNegativesRankingLoss.forward."""
    embeddings = [embed(passes, sentence_features[0])["sentence_embedding"], *_candidates(passes, sentence_features)]
    return _loss(passes, embeddings)


def _candidates(passes: Passes, features_list: list[Features]) -> list[Sym]:
    """Mirror embed_columns of all columns but the first: several are one batch, since release 6."""
    _, *features_list = features_list
    if len(features_list) == 1 or passes.job.sentence_transformers == "5":
        return [embed(passes, features)["sentence_embedding"] for features in features_list]
    merged = {name: ops.cat([each[name] for each in features_list], 0) for name in features_list[0]}
    embeddings = embed(passes, merged)["sentence_embedding"]
    places = len(features_list)
    shape = (places, embeddings.shape[0] // places, embeddings.shape[1])
    return list(ops.unbind(ops.view(embeddings, shape), 0, places))


def _loss(passes: Passes, embeddings: list[Sym]) -> Sym:
    """Mirror MultipleNegativesRankingLoss.compute_loss_from_embeddings."""
    queries = embeddings[0]
    docs = embeddings[1:]
    tape, batch_size = queries.tape, queries.shape[0]
    docs_all = ops.cat(docs, 0)
    docs_pos = docs[0]
    local_indices = counted(tape, batch_size)
    row_indices = counted(tape, batch_size)
    local_queries = ops.take(queries, local_indices)
    local_docs = ops.take(docs_pos, local_indices)  # noqa: F841  lives to the end
    sim_matrices = {"query_to_doc": cos_sim(passes, local_queries, docs_all)}
    for key in sim_matrices:
        sim_matrices[key] = sim_matrices[key] * 1.0
    positive_scores = ops.index(sim_matrices["query_to_doc"], (row_indices, local_indices))
    scores = ops.cat(list(sim_matrices.values()), 1)
    log_z = logsumexp_last(scores)
    loss = -ops.mean_of_all(positive_scores - log_z)
    return loss


def counted(tape: Tape, size: Size) -> Sym:
    """Return torch.arange(size)."""
    return tape.empty((size,), "int64", op="arange")


def cos_sim(passes: Passes, a: Sym, b: Sym) -> Sym:
    """Mirror cos_sim: rows a [M, H] and b [N, H] are brought to length one, since release 6 in fp32; their product."""
    if passes.job.sentence_transformers != "5":
        a = ops.cast(a, "fp32")
        b = ops.cast(b, "fp32")
    a_norm = ops.unit_rows(a)
    b_norm = ops.unit_rows(b)
    return mm(a_norm, ops.transpose(b_norm, 0, 1))
