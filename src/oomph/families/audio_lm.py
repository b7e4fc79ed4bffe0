"""Audio-language models: a Whisper-like encoder, a projector, a decoder.

Class defaults and structure: transformers 5.23, models/qwen2_audio and voxtral.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Parts
from oomph.blocks.basic import Linear
from oomph.config import Config
from oomph.families.multimodal import LM_HEAD, FeatureProjector, compose, section, text_model, two_maps, with_last
from oomph.families.towers import tower, typed_tower
from oomph.model import Model

TOWER, PROJECTOR = "model.audio_tower", "model.multi_modal_projector"
TYPES: dict[str, dict[str, Any]] = {"qwen2_audio": {}, "voxtral": {}}

# VoxtralConfig fills a text_config's gaps with these.
VOXTRAL_TEXT: dict[str, Any] = {
    "vocab_size": 131072, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 30,
    "num_key_value_heads": 8, "max_position_embeddings": 131072, "head_dim": 128,
}  # fmt: skip


def build(config: Config) -> Model:
    """Return encoder, projector and decoder; neither class ties its head. Voxtral's has the projector last."""
    if config.model_type == "voxtral":
        text = text_model(config, "llama", init=VOXTRAL_TEXT)
        audio = typed_tower(section(config, "audio_config"), "voxtral_encoder")
        # Four frames of the encoder are joined into intermediate_size features.
        maps: Parts = two_maps(audio.int("intermediate_size"), text.hidden_size, bias=False)
    else:
        text = text_model(config, "qwen2")
        audio = typed_tower(section(config, "audio_config"), "qwen2_audio_encoder")
        maps = {"linear": Linear(audio.int("d_model"), text.hidden_size, bias=True)}
    bridge = FeatureProjector(maps, activation=config.str("projector_hidden_act", "gelu"))
    model = compose(config, text, {TOWER: tower(audio), PROJECTOR: bridge})
    if config.model_type == "voxtral":
        model = replace(model, parts=with_last(model.parts, (PROJECTOR, LM_HEAD)))
    dropped = "layerdrop" if config.model_type == "voxtral" else "encoder_layerdrop"
    unplayed = ("layers skipped at random",) if audio.rate(dropped, 0.0) else ()
    return replace(model, unplayed=(*model.unplayed, *unplayed))
