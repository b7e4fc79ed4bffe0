"""The pass of an embedding model: states of all tokens, one vector of each sequence, its length made one.

Source: sentence-transformers 6.2, base/model.py (BaseModel.forward), base/modules/transformer.py, base/modules/
normalize.py, sentence_transformer/modules/pooling.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.objectives.passes import Passes, autocast_dtype
from oomph.ops.scores import compared
from oomph.programs import program_of
from oomph.tape.autograd import like
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size
from oomph.tape.sym import Sym, view_of
from oomph.tape.tape import autocast

# Types whose tokenizer says which of two sentences a token is of, in the encoder's batch too.
TOKEN_TYPED = ("bert", "electra", "ernie", "nomic_bert")
ENCODERS = (*TOKEN_TYPED, "camembert", "distilbert", "modernbert", "mpnet", "roberta", "xlm-roberta")
Features = dict[str, Sym]


def pooling_of(model_type: str, job: TrainJob) -> str:
    """Return how a sequence's vector is made of its tokens': as a job says, or as models of a kind are published."""
    if job.pooling != "default":
        return job.pooling
    return "mean" if model_type in ENCODERS else "lasttoken"


def columns(passes: Passes) -> Shapes:
    """Return the tensors of a batch, those of anchors, of positives, of negatives one after the other."""
    job = passes.job
    typed = ("token_type_ids",) * (passes.model.model_type in TOKEN_TYPED)
    found: Shapes = {}
    for column, length in enumerate(lengths(job)):
        for name in ("input_ids", *typed, "attention_mask"):
            found[f"{column}_{name}"] = ((job.batch, length), "int64")
    return found


def lengths(job: TrainJob) -> list[Size]:
    """Return the tokens of each column's texts: anchors, positives, negatives."""
    return [job.anchor_len if "anchor_len" in job.axes else job.seq_len, *[job.seq_len] * (1 + job.negatives)]


def collected(inputs: Features) -> list[Features]:
    """Mirror collect_features: a batch's tensors by column."""
    found: list[Features] = []
    for name, tensor in inputs.items():
        column, _, feature = name.partition("_")
        if int(column) == len(found):
            found.append({})
        found[-1][feature] = tensor
    return found


def embed(passes: Passes, features: Features) -> Features:
    """Mirror the forward of a SentenceTransformer as accelerate wraps it: what it makes is left in `features`."""
    tape, job = passes.tape, passes.job
    begins = f"embedding {tape.work}"
    if tape.recorder.marks[-1][1] != begins:  # the first one begins with its batch
        tape.recorder.mark(begins)
    tape.scope = ""
    with autocast(tape, autocast_dtype(job)):
        _transformer(passes, features)
        tape.scope = "pooling"
        _pool(features, pooling_of(passes.model.model_type, job), job.sentence_transformers)
        if job.normalize:
            _normalize(features)
    if job.fp32_outputs:
        features = {name: ops.cast(each, "fp32") if _narrow(each) else each for name, each in features.items()}
    tape.recorder.mark("objective")
    tape.scope = "objective"
    return features


def _narrow(x: Sym) -> bool:
    return x.dtype in ("bf16", "fp16")


def _transformer(passes: Passes, features: Features) -> None:
    """Mirror Transformer.forward, which holds all that the model returns to its end."""
    program = program_of(passes.model)
    if not hasattr(program, "backbone"):
        raise UnsupportedError(
            f"oomph cannot play {passes.job.objective} with {passes.model.model_type} yet.",
            "Take an encoder like BERT, or a decoder like Llama.",
        )
    checkpointing = Checkpointing.of(passes.job) if passes.tape.grad_enabled else Checkpointing()
    typed = {"token_type_ids": features["token_type_ids"]} if "token_type_ids" in features else {}
    # Since release 6 nobody asks for a cache; encoders have none.
    use_cache = passes.job.sentence_transformers == "5" and passes.job.checkpointing == "none"
    kernel = passes.tape.kernel  # which the forward pass of some types changes
    model_output: Any = program.backbone(
        passes.policy, features["input_ids"], passes.model.decoder_type, features["attention_mask"], None,
        use_cache=use_cache, checkpointing=checkpointing, **typed,
    )  # fmt: skip
    passes.tape.kernel = kernel
    features["token_embeddings"] = model_output[0]


def _pool(features: Features, mode: str, release: str) -> None:
    """Mirror Pooling.forward: vectors of all modes, of which there is one, are joined."""
    token_embeddings = features["token_embeddings"]
    attention_mask = features["attention_mask"]
    pooled = _mean_of_5 if (mode, release) == ("mean", "5") else POOLED[mode]
    output_vectors = [pooled(token_embeddings, attention_mask)]
    features["sentence_embedding"] = ops.cat(output_vectors, -1)


def _first(token_embeddings: Sym, attention_mask: Sym) -> Sym:
    """Mirror the mode cls: the first token that is no padding."""
    tape, (batch, _, hidden_dim) = token_embeddings.tape, token_embeddings.shape
    as_int = like(attention_mask, "int32")
    first_indices = tape.empty((batch,), "int64", op="argmax")
    del as_int
    return _gathered(token_embeddings, first_indices, hidden_dim)


def _gathered(states: Sym, indices: Sym, hidden_dim: Size) -> Sym:
    """Mirror torch.gather(states, 1, indices [B, 1, H]).squeeze(1): [B, H]."""
    gather_indices = view_of(indices, (indices.shape[0], 1, hidden_dim), (1, 1, 0))
    taken = ops.gather(states, gather_indices)
    return ops.view(taken, (taken.shape[0], hidden_dim))


def _mean(token_embeddings: Sym, attention_mask: Sym) -> Sym:
    """Mirror the mode mean: summed up in fp32, by the number of tokens that are no padding."""
    mean_sum: Any = None  # it dies before the mask, and so does the number of tokens
    mean_mask: Any = None
    dtype = token_embeddings.dtype
    accumulation_dtype = "fp32" if _narrow(token_embeddings) else dtype
    mask = like(ops.unsqueeze(attention_mask, 2), dtype)
    mean_sum = ops.sum_over(token_embeddings * mask, 1, dtype=accumulation_dtype)
    mean_mask = ops.sum_over(mask, 1, dtype=accumulation_dtype)
    mean_mask = ops.clamp(mean_mask)
    denominator = mean_mask
    mean_embedding = ops.divide(mean_sum, denominator)
    mean_embedding = ops.cast(mean_embedding, dtype)
    return mean_embedding


def _mean_of_5(token_embeddings: Sym, attention_mask: Sym) -> Sym:
    """Mirror the mode mean of release 5: the mask is spread over all numbers of the states, and kept for backward."""
    mean_sum: Any = None
    mean_mask: Any = None
    mask = token_embeddings.tape.empty(token_embeddings.shape, token_embeddings.dtype, op="_to_copy")
    mean_sum = ops.sum_over(token_embeddings * mask, 1)
    mean_mask = ops.sum_over(mask, 1)
    mean_mask = ops.clamp(mean_mask)
    return ops.divide(mean_sum, mean_mask)


def _last(token_embeddings: Sym, attention_mask: Sym) -> Sym:
    """Mirror the mode lasttoken: states are multiplied by the mask, spread over all their numbers, first."""
    tape, (bs, _, hidden_dim) = token_embeddings.tape, token_embeddings.shape
    flipped = like(attention_mask, "int64", "flip")
    values, indices = (tape.empty((bs,), "int64", op="max") for _ in range(2))
    del flipped
    nothing = compared("eq", values)
    first = tape.empty((), "int64", op="scalar_tensor")
    chosen = like(indices, "int64", "where")
    del first, nothing
    indices = chosen
    left = like(indices, "int64", "rsub")
    places = like(left, "int64", "sub")
    del left
    mask = tape.empty(token_embeddings.shape, token_embeddings.dtype, op="_to_copy")
    return _gathered(token_embeddings * mask, places, hidden_dim)


POOLED = {"cls": _first, "mean": _mean, "lasttoken": _last}


def _normalize(features: Features) -> None:
    """Mirror Normalize.forward."""
    x = features["sentence_embedding"]
    features["sentence_embedding"] = ops.unit_rows(x)
