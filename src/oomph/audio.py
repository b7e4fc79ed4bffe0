"""How feature extractors turn a recording into a spectrogram, and how many tokens a model makes of it."""

from __future__ import annotations

import math

# Frames of a second: 16000 samples, a frame for each 160 of them (transformers 5.23,
# models/whisper/feature_extraction_whisper.py, hop_length).
FRAMES = 100


def heard(seconds: int, whole: int) -> int:
    """Return how many of the `whole` frames of a spectrogram are a recording's; what is longer is cut off.

    Whisper's encoders take spectrograms of one length: 3000 frames, which are 30 seconds.

    >>> heard(10, 3000), heard(45, 3000)
    (1000, 3000)
    """
    return min(seconds * FRAMES, whole)


def pooled_tokens(frames: int) -> int:
    """Return how many tokens Qwen2-Audio's encoder makes of frames: two become one in its convolution, and in its pool.

    Source: transformers 5.23, models/qwen2_audio/modeling_qwen2_audio.py, _get_feat_extract_output_lengths.

    >>> pooled_tokens(1000), pooled_tokens(3000)
    (250, 750)
    """
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def chunks(seconds: int, whole: int) -> int:
    """Return how many spectrograms of `whole` frames VoxtralProcessor makes of a recording, the last one filled up.

    Source: transformers 5.23, models/voxtral/processing_voxtral.py, _retrieve_input_features.

    >>> chunks(10, 3000), chunks(45, 3000)
    (1, 2)
    """
    return math.ceil(seconds * FRAMES / whole)
