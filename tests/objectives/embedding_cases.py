"""Jobs of embedding models whose events were recorded from sentence-transformers' own code."""

from __future__ import annotations

from typing import Any

from oomph.job import TrainJob

BERT: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 515,
    "num_hidden_layers": 1,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
QWEN3: dict[str, Any] = BERT | {
    "model_type": "qwen3",
    "architectures": ["Qwen3Model"],
    "num_key_value_heads": 2,
    "head_dim": 12,
}
MISTRAL: dict[str, Any] = BERT | {
    "model_type": "mistral",
    "architectures": ["MistralModel"],
    "num_key_value_heads": 2,
}
MODERNBERT: dict[str, Any] = BERT | {
    "model_type": "modernbert",
    "architectures": ["ModernBertModel"],  # of one layer: tables of two kinds come in the order of a set
    "local_attention": 8,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
}
DISTILBERT: dict[str, Any] = {
    "model_type": "distilbert",
    "architectures": ["DistilBertModel"],
    "vocab_size": 515,
    "n_layers": 1,
    "dim": 48,
    "n_heads": 4,
    "hidden_dim": 96,
    "max_position_embeddings": 64,
}
AMP: dict[str, Any] = {"precision": "amp-bf16", "fp32_outputs": True}


def named(model_type: str, architecture: str, **more: Any) -> dict[str, Any]:
    """Return a model of BERT's kin."""
    return BERT | {"model_type": model_type, "architectures": [architecture]} | more


XLM_ROBERTA = named("xlm-roberta", "XLMRobertaModel", type_vocab_size=1)
MPNET = named("mpnet", "MPNetModel")
NOMIC = named("nomic_bert", "NomicBertModel")


def contrastive(batch: int = 3, seq_len: int = 17, **options: Any) -> TrainJob:
    """Return a job of contrastive learning."""
    return TrainJob(batch, seq_len, **{"objective": "contrastive", **options})


def cached(batch: int = 5, seq_len: int = 17, **options: Any) -> TrainJob:
    """Return the same with GradCache, two texts at a time."""
    asked = {"objective": "contrastive-cached", "mini_batch_size": 2, **options}
    return contrastive(batch, seq_len, **asked)


EMBEDDINGS: dict[str, tuple[dict[str, Any], TrainJob]] = {
    "fp32": (BERT, contrastive(precision="fp32")),
    "amp": (BERT, contrastive(**AMP)),
    "bf16, cls, first step": (BERT, contrastive(pooling="cls", padding=True, steady=False, clip_gradients=True)),
    "one pair, last token, lengths as they are": (BERT, contrastive(1, pooling="lasttoken", normalize=False)),
    "two negatives, short anchors": (BERT, contrastive(negatives=2, anchor_len=5, padding=True, accumulation=2)),
    "lora, eager": (BERT, contrastive(method="lora", attention="eager", padding=True, **AMP)),
    "frozen layers": (BERT | {"num_hidden_layers": 2}, contrastive(freeze_layers=1, freeze_embeddings=True)),
    "ernie": (named("ernie", "ErnieModel"), contrastive(**AMP)),
    "electra": (named("electra", "ElectraModel", embedding_size=24), contrastive(negatives=1, padding=True)),
    "roberta": (named("roberta", "RobertaModel"), contrastive(checkpointing="non-reentrant", **AMP)),
    "xlm-roberta": (XLM_ROBERTA, contrastive(padding=True, pooling="cls")),
    "mpnet": (MPNET, contrastive(**AMP)),
    "mpnet, a negative": (MPNET, contrastive(negatives=1, anchor_len=6, padding=True)),
    "distilbert": (DISTILBERT, contrastive(negatives=1, **AMP)),
    "modernbert": (MODERNBERT, contrastive(**AMP)),
    "modernbert, padding": (MODERNBERT, contrastive(negatives=1, anchor_len=6, padding=True)),
    "nomic-bert": (NOMIC, contrastive(negatives=1, padding=True, **AMP)),
    "qwen3, lora": (QWEN3, contrastive(method="lora", checkpointing="non-reentrant", **AMP)),
    "qwen3, qlora, padding": (QWEN3, contrastive(method="qlora", checkpointing="reentrant", padding=True)),
    "mistral, lora": (MISTRAL, contrastive(method="lora", targets="all-linear", accumulation=2, padding=True, **AMP)),
    "gpt-neox": (named("gpt_neox", "GPTNeoXModel"), contrastive()),
    "cached, fp32": (BERT, cached(precision="fp32")),
    "cached, four mini-batches": (BERT, cached(7, accumulation=2)),
    "cached, negatives": (
        BERT,
        cached(negatives=1, anchor_len=5, padding=True, checkpointing="non-reentrant", **AMP),
    ),
    "cached, one mini-batch, qwen3, lora": (QWEN3, cached(2, method="lora", **AMP)),
}
OF_5: dict[str, Any] = {"sentence_transformers": "5"}
EMBEDDINGS_OF_5: dict[str, tuple[dict[str, Any], TrainJob]] = {
    "fp32": (BERT, contrastive(precision="fp32", **OF_5)),
    "two negatives, short anchors, amp": (
        BERT,
        contrastive(negatives=2, anchor_len=6, padding=True, accumulation=2, **AMP, **OF_5),
    ),
    "xlm-roberta, cls": (XLM_ROBERTA, contrastive(pooling="cls", padding=True, **OF_5)),
    "modernbert, last token": (MODERNBERT, contrastive(pooling="lasttoken", **OF_5)),
    "qwen3, a negative": (QWEN3, contrastive(negatives=1, **OF_5)),
    "mistral, lora": (MISTRAL, contrastive(method="lora", checkpointing="non-reentrant", **AMP, **OF_5)),
    "cached": (BERT, cached(negatives=1, **OF_5)),
    "cached, qwen3": (QWEN3, cached(3, **AMP, **OF_5)),
}
