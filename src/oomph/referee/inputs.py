"""What a job's code is called with: token ids, masks, positions, spectrograms and labels, made where the model is."""

from __future__ import annotations

from typing import Any

import torch

from oomph.job import TrainJob
from oomph.referee.losses import unwrapped
from oomph.referee.models import DTYPES


def text_inputs(model: Any, batch: int, length: int, masked: int) -> dict[str, Any]:
    """Return token ids [batch, length] int64 and a mask [batch, masked] int64, if any, whose first column is 0.

    The ids are random: what a CUDA embedding's backward takes grows with how many different ones there are.
    """
    device, vocab = model.device, model.config.get_text_config().vocab_size
    if unwrapped(model).main_input_name == "input_features":
        return {"input_features": spectrogram(model, batch)}
    return {"input_ids": torch.randint(vocab, (batch, length), device=device), **padding_mask(model, batch, masked)}


def padding_mask(model: Any, batch: int, masked: int) -> dict[str, Any]:
    """Return a mask [batch, masked] int64 whose first column is 0, if any."""
    if not masked:
        return {}
    made = torch.ones(batch, masked, dtype=torch.long, device=model.device)
    made[:, :1].zero_()
    return {"attention_mask": made}


def spectrogram(model: Any, batch: int) -> torch.Tensor:
    """Return a spectrogram [batch, mels, frames] in the weights' dtype, as long as the processor makes all of them."""
    encoder = unwrapped(model).get_encoder()
    frames = model.config.max_source_positions * encoder.conv1.stride[0] * encoder.conv2.stride[0]
    return torch.randn(batch, model.config.num_mel_bins, frames, dtype=model.dtype, device=model.device)


def labels_of(model: Any, job: TrainJob) -> torch.Tensor:
    """Return int64 labels of tokens [batch, seq_len] or sequences [batch]; of a classifier of one label numbers, in
    the weights' dtype: backward refuses another one.
    """
    classifies = type(unwrapped(model)).__name__.endswith("ForSequenceClassification")
    rows, tokens = job.shape
    shape = (rows,) if classifies else (rows, job.target_len or tokens)
    numbers = classifies and model.config.num_labels == 1
    return torch.zeros(shape, dtype=model.dtype if numbers else torch.long, device=model.device)


def told_apart(job: TrainJob, device: Any) -> dict[str, Any]:
    """Return what tells the sequences of each row apart, all as long but the last: position ids int64 and, as TRL's
    collator, where each begins int32, or LLaMA-Factory's mask in the weights' dtype.

    Position ids are made in place, so that nothing else is allocated.
    """
    rows, tokens = job.shape
    longest = -(-tokens // job.sequences_in_row)
    counted = torch.ones(rows, tokens, dtype=torch.long, device=device).cumsum_(1)
    made: dict[str, Any] = {"position_ids": counted.sub_(1).remainder_(longest)}
    if job.packed_by == "lengths":
        begins = [min(at * longest, tokens) for at in range(job.sequences_in_row + 1)]
        for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
            made[name] = torch.tensor(begins, dtype=torch.int32, device=device)
        made |= {"max_length_q": longest, "max_length_k": longest}
        made["seq_idx"] = torch.zeros(rows, tokens, dtype=torch.int32, device=device)
    if job.packed_by == "mask":
        dtype = DTYPES[job.precision.removeprefix("amp-")]
        made["attention_mask"] = torch.zeros(rows, 1, tokens, tokens, dtype=dtype, device=device)
    return made
