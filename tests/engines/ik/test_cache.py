"""ik_llama.cpp: what its cache takes, as its users' logs in github.com/ikawrakow/ik_llama.cpp/discussions say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph.answer import subject
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.command_line import read_text
from oomph.engines.ik import IkJob
from oomph.engines.ik.served import as_kept
from oomph.engines.llamacpp.served import known
from oomph.engines.serving import serve
from oomph.errors import OomphError
from oomph.formats.gguf_types import BY_NAME
from tests.engines.llamacpp import tiny

GPU = find("h200")
JOB = IkJob(ctx_size=32768, format="q8_0")
# Model, tokens, types of keys and values, -mla, flash attention; KV self size, K, V and the GPU's buffer in MiB.
LOGGED = [
    ("deepseek-r1", 32768, "q8_0", "f16", 3, True, (1166.62, 1166.62, None, 1166.65)),
    ("deepseek-r1", 32768, "f16", "f16", 3, True, (2196.0, 2196.0, None, 2196.0)),
    ("deepseek-r1", 16384, "q8_0", "q8_0", 3, True, (583.31, 583.31, None, None)),
    ("kimi-k2-instruct", 512, "f16", "f16", 1, False, (64.81, None, None, None)),
    ("kimi-k2-instruct", 512, "f16", "f16", 0, False, (1220.0, 732.0, 488.0, None)),
    ("gemma-3-27b", 32768, "f16", "f16", 0, True, (15872.0, 7936.0, 7936.0, 15872.0)),
    ("gemma-3-27b", 131072, "f16", "f16", 0, False, (63488.0, 31744.0, 31744.0, None)),
    ("qwen3-235b-a22b", 32768, "q8_0", "q8_0", 0, True, (3196.0, 1598.0, 1598.0, 3196.05)),
    ("qwen3-235b-a22b", 8192, "q8_0", "f16", 0, True, (1151.5, 399.5, 752.0, None)),
    ("llama-3.1-8b", 1024, "iq4_nl", "f16", 0, False, (82.0, 18.0, 64.0, None)),
    ("llama-2-13b", 512, "f16", "f16", 0, False, (400.0, 200.0, 200.0, None)),
]


def _deployed(job: IkJob, name: str) -> Any:
    return engine("ik_llama.cpp").deploy(subject(name), job, [GPU])


@pytest.mark.parametrize(("name", "tokens", "keys", "values", "mla", "flash", "logged"), LOGGED)
def test_the_cache_is_the_one_of_real_logs(
    name: str, tokens: int, keys: str, values: str, mla: int, flash: bool, logged: tuple
) -> None:
    """To the two decimals that are printed."""
    job = replace(
        JOB, ctx_size=tokens, cache_type_k=keys, cache_type_v=values, mla=mla, flash_attn="on" if flash else "off"
    )
    printed = {each.name: round(each.value, 2) for each in _deployed(job, name).printed}
    for key, value in zip(("kv_mib", "kv_mib_k", "kv_mib_v", "kv_gpu_mib"), logged, strict=True):
        if value is not None:
            assert printed[key] == value, key


def test_rows_of_q8_kv_have_a_head_of_their_own() -> None:
    """Eight bytes before each head's keys of each token (ggml.c: row_meta_size), once before all values."""
    job = replace(JOB, ctx_size=4096, cache_type_k="q8_KV", cache_type_v="q8_KV")
    printed = {each.name: each.value * 2**20 for each in _deployed(job, "llama-3.1-8b").printed}
    assert BY_NAME["Q8_KV"].row_extra == 8
    assert printed["kv_mib_k"] == 32 * 4096 * 8 * (128 + 8)
    assert printed["kv_mib_v"] == 32 * (4096 * 1024 + 8)


def test_slots_share_the_cache() -> None:
    """-c tokens in all, whatever -np is; a job's requests get as many as each asks for."""
    assert _deployed(replace(JOB, parallel=4), "qwen3-4b").context == 8192
    asked = IkJob(context=8192, concurrency=4, parallel=4, format="q8_0")
    found = serve(subject("qwen3-4b"), engine("ik_llama.cpp"), asked, [GPU])
    assert found.groups["kv_cache"] == 32768 * 36 * 2 * 1024 * 2
    one = serve(subject("qwen3-4b"), engine("ik_llama.cpp"), replace(asked, parallel=1), [GPU])
    assert "-np gives 1 slot" in one.verdict.sentence


def test_a_command_is_told_by_its_folder() -> None:
    """Its programs have llama.cpp's names."""
    text = "~/ik_llama.cpp/build/bin/llama-server -m r1.gguf -mla 2 -fa on -fmoe -amb 512 -ctk q8_0 -rtr -c 32768"
    found = read_text(text)
    assert found.engine.name == "ik_llama.cpp"
    job = IkJob(mla=2, flash_attn="on", attention_batch=512, cache_type_k="q8_0", repack=True, ctx_size=32768)
    assert found.job == replace(job, fused_moe=True)
    assert read_text(" ".join(engine("ik_llama.cpp").command("r1.gguf", found.job))).job == found.job
    assert read_text("./llama-server -c 4096").engine.name == "llama.cpp"


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"mla": 4}, "-mla 4"), ({"cache_type_k": "q3_0"}, "'q3_0'"), ({"swa_full": True}, "swa_full"),
     ({"kv_unified": True}, "kv_unified"), ({"version": "1"}, "What build 1 of")],
)  # fmt: skip
def test_what_is_not_there_is_refused_by_name(changed: dict, named: str) -> None:
    """No traceback, no guess."""
    with pytest.raises(OomphError, match=named):
        _deployed(replace(JOB, **changed), "qwen3-4b")


def test_a_file_of_whole_heads_is_kept_as_one_vector(tmp_path: Path) -> None:
    """What was converted before April 2025, of which llama.cpp keeps every head: ik_llama.cpp goes by the model."""
    pytest.importorskip("gguf")
    config = tiny.CONFIGS["deepseek2"]
    tiny.write(tmp_path / "new.gguf", config, "q8_0")
    found = subject(str(tmp_path / "new.gguf"))
    header, made = found.source.header, known(found, None)
    assert header is not None
    assert made.hparams is not None
    heads, rope = config["num_attention_heads"], config["qk_rope_head_dim"]
    older = {key: value for key, value in header.metadata.items() if not key.endswith("_mla")}
    older |= {"deepseek2.attention.head_count_kv": heads, "deepseek2.rope.dimension_count": rope,
              "deepseek2.attention.key_length": config["qk_nope_head_dim"] + rope,
              "deepseek2.attention.value_length": config["v_head_dim"],
              "deepseek2.attention.kv_lora_rank": config["kv_lora_rank"]}  # fmt: skip
    old_header = replace(header, metadata=older)
    source = replace(found.source, header=old_header)
    old = known(replace(found, source=source, model=replace(found.model)), None)
    assert old.sizes.kept[0].k == heads * (config["qk_nope_head_dim"] + rope)
    again = as_kept(old, old_header)
    assert (again.sizes.latent, again.sizes.kept) == (True, made.sizes.kept)
    assert again.hparams is not None
    assert vars(again.hparams) == vars(made.hparams)
