"""Gemma 4 with layers that share keys and values and have embeddings of their own: only its file tells what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from oomph.answer import subject
from oomph.engines.llamacpp.deploy import deploy
from oomph.engines.llamacpp.job import LlamaCppJob
from tests.engines.llamacpp import real, tiny

VOCAB, HIDDEN, FFN, HEADS, KV_HEADS, OWN, SHARED = 1024, 512, 768, 8, 2, 64, 2
WINDOWED = (True, True, False, True, True, False, True, False)
DIMS = {True: 64, False: 128}  # of a head, with a window and without

# Flags of a job, the same as fields of common_params, MiB logged by build 11549: caches, compute buffer.
LOGGED = (
    ({"parallel": 1}, {"n_parallel": 1}, 8.0 + 2.0, 15.53),
    ({"parallel": 1, "flash_attn": "off"}, {"n_parallel": 1, "flash_attn_type": 0}, 8.0 + 3.0, 85.02),
    ({"parallel": 4, "ubatch_size": 128}, {"n_parallel": 4, "n_ubatch": 128}, 8.0 + 6.0, 3.07),
)


def _shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor's shape, rows last."""
    n = len(WINDOWED)
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,), "rope_freqs.weight": (DIMS[False] // 2,),
        "per_layer_token_embd.weight": (VOCAB, OWN * n), "per_layer_model_proj.weight": (OWN * n, HIDDEN),
        "per_layer_proj_norm.weight": (OWN,),
    }  # fmt: skip
    for il, windowed in enumerate(WINDOWED):
        dim = DIMS[windowed]
        layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (HIDDEN,), "attn_q": (HEADS * dim, HIDDEN), "attn_output": (HIDDEN, HEADS * dim),
            "attn_q_norm": (dim,), "ffn_norm": (HIDDEN,), "ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN),
            "ffn_down": (HIDDEN, FFN), "post_attention_norm": (HIDDEN,), "post_ffw_norm": (HIDDEN,),
            "layer_output_scale": (1,), "inp_gate": (OWN, HIDDEN), "proj": (HIDDEN, OWN), "post_norm": (HIDDEN,),
        }  # fmt: skip
        if il < n - SHARED:
            keys = (KV_HEADS * dim, HIDDEN)
            layer |= {"attn_k": keys, "attn_v": keys, "attn_k_norm": (dim,)}
        found |= {f"blk.{il}.{name}.weight": shape for name, shape in layer.items()}
    return found


def _write(path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    import numpy as np

    writer = gguf.GGUFWriter(path, "gemma4")
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(len(WINDOWED))
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(512)
    writer.add_sliding_window_pattern(list(WINDOWED))
    for add, add_windowed in (
        (writer.add_key_length, writer.add_key_length_swa),
        (writer.add_value_length, writer.add_value_length_swa),
        (writer.add_rope_dimension_count, writer.add_rope_dimension_count_swa),
    ):
        add(DIMS[False])
        add_windowed(DIMS[True])
    writer.add_uint32("gemma4.embedding_length_per_layer_input", OWN)
    writer.add_uint32("gemma4.attention.shared_kv_layers", SHARED)
    tiny._vocabulary(writer, VOCAB)
    for name, shape in _shapes().items():
        writer.add_tensor(name, np.zeros(shape, np.float32 if len(shape) == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, of some megabytes."""
    found = tmp_path_factory.mktemp("gguf") / "gemma4.gguf"
    _write(found)
    return found


@pytest.mark.parametrize("logged", LOGGED)
def test_caches_and_buffers_are_those_logged(logged: tuple[dict, dict, float, float], path: Path) -> None:
    """Layers that share keep nothing; embeddings of all layers are there from the start."""
    flags, _, kv, compute = logged
    job = LlamaCppJob(ctx_size=4096, gpu_layers=0, **flags)
    lines = {line.name: line.value for line in deploy(subject(str(path)), job).printed}
    assert lines["kv_mib"] == pytest.approx(kv, abs=0.0101)
    assert lines["host_buffer_mib"] == pytest.approx(compute, abs=0.0051)


@pytest.mark.slow
def test_what_is_written_here_was_logged(path: Path) -> None:
    """The numbers above are those of a real server."""
    real.needed()
    for _, params, kv, compute in LOGGED:
        said = real.start(path, n_ctx=4096, **params)
        assert (sum(each.mib for each in said.caches), said.mib("compute")) == (kv, compute)
