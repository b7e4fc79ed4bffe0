"""mlx-lm: caches as its own classes hold them, the peak it prints, and what a Mac has room for.

Goldens: caches of real mlx-lm models (scripts/record_mlx_golden.py), and mlx-lm's own BENCHMARKS.md (0.28.2, M4 Max).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph.answer import Subject, subject
from oomph.blocks.cached import StateCache, TokenCache
from oomph.caches import layer_caches
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.command_line import read_text
from oomph.engines.mlx.caches import Kept, sequence_bytes
from oomph.engines.mlx.families import WINDOWED
from oomph.engines.mlx.job import MlxJob
from oomph.engines.mlx.operations import Op
from oomph.engines.mlx.stream import BASE, LARGE, in_flight
from oomph.engines.serving import serve
from oomph.errors import OomphError, UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.header import Source
from oomph.units import GB, GIB

GOLDEN = json.loads((Path(__file__).parent / "mlx_golden.json").read_text())
ITEM = {"bfloat16": 2, "float32": 4}
# BENCHMARKS.md of mlx-lm 0.28.2: peak in GB of Qwen3-4B-Instruct-2507, 2048 tokens read and 128 written.
PUBLISHED = {
    "bf16": 9.02, "mlx-8bit": 5.254, "mlx-6bit": 4.25, "mlx-5bit-g32": 4.0, "mlx-5bit": 3.86, "mlx-4bit-g32": 3.603,
    "mlx-4bit": 3.35,
}  # fmt: skip
# Peaks in GB that others published of mlx-lm, found when the rules were there. Model, format, prompt, tokens written,
# requests, device, release: pull requests 1569, 396, 40, 839 (three), 478 (two) of mlx-lm and 4518 of mlx.
OTHERS = [
    ("qwen3-4b-instruct-2507", "mlx-4bit", 2048, 128, 1, "m3-pro-18gb", "", 3.30),
    ("llama-3.2-3b", "mlx-4bit", 2048, 128, 1, "m2-ultra-192gb", "0.26.4", 3.285),
    ("mistral-7b-instruct-v0.3", "mlx-4bit", 33898, 100, 1, "m2-ultra-192gb", "0.22.2", 9.111),
    ("deepseek-v3", "mlx-4bit", 4096, 128, 1, "m3-ultra-512gb", "", 383.213),
    ("deepseek-v3", "mlx-4bit", 8192, 128, 1, "m3-ultra-512gb", "", 388.343),
    ("deepseek-v3", "mlx-4bit", 16384, 128, 1, "m3-ultra-512gb", "", 398.605),
    ("qwen3-next-80b-a3b-instruct", "mlx-4bit", 128, 128, 1, "m3-ultra-512gb", "", 45.090),
    ("qwen3-next-80b-a3b-instruct", "mlx-4bit", 128, 128, 16, "m3-ultra-512gb", "", 46.885),
    ("gemma-4-31b", "mlx-nvfp4", 16384, 128, 1, "m3-ultra-512gb", "", 23.952),
]
MAC = find("m4-max-64gb")


def _name(row: dict) -> str:
    return f"{row['model_type']}-{row['prompt']}+{row['tokens']}-by-{row['step']}-bits-{row['kv_bits']}"


def _ledger(job: MlxJob, name: str = "qwen3-4b", mac: Any = MAC) -> Any:
    return serve(subject(name), engine("mlx"), job, [mac])


@pytest.mark.parametrize("row", GOLDEN["cached"], ids=_name)
def test_caches_take_what_real_ones_hold(row: dict) -> None:
    """KVCache, RotatingKVCache, QuantizedKVCache and ArraysCache after a prompt and some tokens, to the byte."""
    config = GOLDEN["configs"][row["model_type"]]
    kept = Kept(ITEM[row["dtype"]], row["kv_bits"], 64, row["start"])
    read = row["prompt"] - 1
    windowed = row["model_type"] in WINDOWED
    found = 0
    for layers in layer_caches(model_from_config(config, "tiny")):
        for cached in layers.cached:
            found += len(layers.layers) * sequence_bytes(cached, kept, windowed, read, row["tokens"] + 1)
    assert found == sum(row["bytes"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_peak_is_the_one_that_mlx_lm_published(name: str) -> None:
    """Within 2 % in every format, never above the upper bound, no number of it fitted."""
    found = _ledger(MlxJob(context=2176, prompt=2048, format=name)).printed[0]
    assert found.text == f"Peak memory: {found.value * GIB / GB:.3f} GB"
    assert found.value * GIB / GB == pytest.approx(PUBLISHED[name], rel=0.02)
    assert found.safe is not None
    assert found.safe * GIB / GB > PUBLISHED[name]


@pytest.mark.parametrize(("name", "stored", "prompt", "tokens", "requests", "mac", "release", "peak"), OTHERS)
def test_peaks_that_others_published(
    name: str, stored: str, prompt: int, tokens: int, requests: int, mac: str, release: str, peak: float
) -> None:
    """Other models, lengths, batches and chips, within 3 %."""
    job = MlxJob(context=prompt + tokens, prompt=prompt, format=stored, concurrency=requests, version=release)
    found = _ledger(job, name, find(mac)).printed[0]
    assert found.value * GIB / GB == pytest.approx(peak, rel=0.03)
    assert found.safe is not None
    assert found.safe * GIB / GB > peak


def test_older_releases_are_told_apart() -> None:
    """Logits of a whole prompt before 0.27; keys and values of all heads of latent attention before 0.30.6."""
    job = MlxJob(context=2176, prompt=2048, format="mlx-4bit")
    before, after = (_ledger(replace(job, version=each)).printed[0].value for each in ("0.26.4", "v0.27"))
    assert (before - after) * GIB > 2048 * 151936 * 2 / 2
    with pytest.raises(UnsupportedError, match=r"0\.30\.6"):
        _ledger(replace(job, version="0.28.2"), "deepseek-v3")
    with pytest.raises(UsageError, match="no release"):
        _ledger(replace(job, version="newest"))


@pytest.mark.parametrize(
    ("cached", "named"),
    [(TokenCache(8, 64, 64, "cross"), "cross"), (TokenCache(1, 64, 0, "compressed"), "compressed"),
     (StateCache("rwkv", 64, 2, (4, 64, 64)), "rwkv")],
)  # fmt: skip
def test_caches_of_another_kind_are_refused_by_name(cached: Any, named: str) -> None:
    """What mlx-lm keeps of them is not read yet."""
    with pytest.raises(UnsupportedError, match=named):
        sequence_bytes(cached, Kept(2), False, 10, 1)


def test_ten_command_buffers_are_on_their_way() -> None:
    """Arrays of 60 Mi elements fill a buffer each; ten wait, the eleventh is being encoded."""
    layer = [Op(("x",), "n", 60 * 2**20), Op(("n",), "x", 60 * 2**20)]
    assert in_flight([layer] * 50, 1, 2, BASE).n_bytes == 12 * 60 * 2**20 * 2
    small = [Op(("x",), "n", 2**10), Op(("n",), "x", 2**10)]
    assert in_flight([small] * 400, 1, 2, LARGE).n_bytes > in_flight([small] * 400, 1, 2, BASE).n_bytes


def test_the_bound_holds_in_any_order() -> None:
    """What is on its way is never more than the upper bound."""
    layer = [Op(("x",), "n", 5 * 2**20), Op(("n",), "wide", 20 * 2**20), Op(("wide",), "x", 5 * 2**20)]
    found = in_flight([layer] * 40, 1, 2, LARGE)
    assert 0 < found.n_bytes <= found.safe_bytes


def test_more_context_or_requests_never_take_less() -> None:
    """And a map says what single answers say."""
    np = pytest.importorskip("numpy")
    share = engine("mlx").deploy(subject("qwen3-4b"), MlxJob(context=4096), [MAC]).shares[0]
    contexts, requests = np.array([1, 300, 2048, 5000, 40000]), np.array([[1], [2], [9]])
    found = share.needs(contexts, requests)
    assert (np.diff(found, axis=0) > 0).all()
    assert (np.diff(found, axis=1) >= 0).all()
    assert found.tolist() == [[share.needs(int(each), int(n[0])) for each in contexts] for n in requests]
    assert share.needs(5000, 2) == sum(item.n_bytes for item in share.held(5000, 2))


def test_towers_and_prediction_layers_are_not_loaded() -> None:
    """mlx-lm drops them from a checkpoint."""
    assert not {"vision", "projector", "mtp"} & {item.kind for item in _ledger(MlxJob(context=1), "gemma-3-27b").items}


def test_quantised_caches_are_served_one_by_one() -> None:
    """--kv-bits turns batches off."""
    job = MlxJob(context=8192, kv_bits=4, format="mlx-4bit")
    assert _ledger(job).verdict.fits
    assert "a concurrency of 2 is more than 1" in _ledger(replace(job, concurrency=2)).verdict.sentence


def test_the_limit_that_macos_was_given_is_the_capacity() -> None:
    """iogpu.wired_limit_mb instead of Metal's own share."""
    job = MlxJob(context=2048, wired_limit_mb=4096)
    assert _ledger(job).verdict.capacity_bytes == 4096 * 2**20
    assert not _ledger(job).verdict.fits
    assert _ledger(MlxJob(context=2048)).verdict.capacity_bytes == MAC.capacity_bytes


@pytest.mark.parametrize(
    ("job", "named"),
    [
        (MlxJob(context=1, prefill_step_size=100), "--prefill-step-size"),
        (MlxJob(context=1, kv_bits=7), "7 bits"),
        (MlxJob(context=1, concurrency=0), "concurrency"),
        (MlxJob(context=8192, kv_bits=4, kv_group_size=96, quantized_kv_start=0), "groups of 96"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(job: MlxJob, named: str) -> None:
    """No number is guessed."""
    with pytest.raises(OomphError, match=named):
        _ledger(job)


def test_a_pasted_command_is_read() -> None:
    """Flags that move memory are in the job, others are passed over, and what is not modelled is refused."""
    found = read_text("mlx_lm.server --model mlx-community/Qwen3-4B-4bit --port 8080 --prefill-step-size 512")
    assert found.engine.name == "mlx"
    assert found.job == MlxJob(prefill_step_size=512)
    assert found.passed_over == ("--port",)
    with pytest.raises(UnsupportedError, match="--draft-model"):
        read_text("mlx_lm.generate --model a --draft-model b")


def test_other_devices_and_weights_are_refused() -> None:
    """MLX runs on Apple silicon, and converts what other libraries quantised."""
    with pytest.raises(UnsupportedError, match="Apple"):
        serve(subject("qwen3-4b"), engine("mlx"), MlxJob(context=1), [find("rtx-4090")])
    config = {
        **GOLDEN["configs"]["qwen3"],
        "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    }
    found = Subject(Source("tiny", "config", config), model_from_config(config, "tiny"), "config")
    with pytest.raises(UnsupportedError, match="gptq"):
        serve(found, engine("mlx"), MlxJob(context=1), [MAC])


def test_a_context_is_asked_for() -> None:
    """Caches grow: mlx-lm has no default of its own, so a model without one is asked about."""
    config = {key: value for key, value in GOLDEN["configs"]["qwen3"].items() if key != "max_position_embeddings"}
    model = replace(model_from_config(config, "tiny"), context_length=None)
    with pytest.raises(UsageError, match="grow"):
        serve(Subject(Source("tiny", "config", config), model, "config"), engine("mlx"), MlxJob(), [MAC])


def test_the_command_holds_what_differs_from_the_defaults() -> None:
    """Words to paste."""
    words = engine("mlx").command("mlx-community/Qwen3-4B-4bit", MlxJob(prefill_step_size=512))
    assert words == ["mlx_lm.server", "--model", "mlx-community/Qwen3-4B-4bit", "--prefill-step-size", "512"]


def test_a_format_is_converted_first() -> None:
    """The published weights are not what is served, so the command serves the folder that the conversion makes."""
    ledger = serve(subject("qwen3-4b"), engine("mlx"), MlxJob(context=1024, format="mlx-4bit"), [MAC])
    assert ledger.command == ("mlx_lm.server", "--model", "Qwen3-4B-mlx-4bit")
    flags = "--hf-path Qwen/Qwen3-4B -q --q-bits 4 --q-group-size 64 --mlx-path Qwen3-4B-mlx-4bit"
    assert f"mlx_lm.convert {flags} was run before" in ledger.assumptions
