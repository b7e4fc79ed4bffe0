"""What a job's code is called with: token ids, masks, positions, spectrograms and labels, made where the model is."""

from __future__ import annotations

from typing import Any

import torch

from oomph.job import TrainJob
from oomph.referee.losses import unwrapped


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
    shape = (job.batch,) if classifies else (job.batch, job.target_len or job.seq_len)
    numbers = classifies and model.config.num_labels == 1
    return torch.zeros(shape, dtype=model.dtype if numbers else torch.long, device=model.device)


def two_in_a_row(job: TrainJob, device: Any) -> torch.Tensor:
    """Return position ids [batch, seq_len] int64 of two sequences in each row, the second as long or one shorter.

    Made in place, so that nothing else is allocated.
    """
    first = (job.seq_len + 1) // 2
    counted = torch.ones(job.batch, job.seq_len, dtype=torch.long, device=device).cumsum_(1)
    return counted.sub_(1).remainder_(first)
