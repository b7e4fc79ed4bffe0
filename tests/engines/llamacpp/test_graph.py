"""llama.cpp's compute buffers against those that a real one logged, and against published logs of GPUs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph.engines.llamacpp import builds
from oomph.engines.llamacpp.builds import all_outputs, build_of
from oomph.engines.llamacpp.graph import compute_buffers, reserve
from oomph.engines.llamacpp.graph_setup import CPU, Build, GraphSetup, Hparams, Stored
from oomph.errors import UnsupportedError
from oomph.formats.gguf_types import BY_NAME
from oomph.units import MIB
from tests.engines.llamacpp import tiny
from tests.engines.llamacpp.graphs import GOLDEN, MODELS, STARTS, setup_of

LOGGED = json.loads(GOLDEN.read_text())["compute_mib"]
PUBLISHED = json.loads(Path(__file__).with_name("compute_published.json").read_text())["rows"]
HUNDREDTH = 0.0051  # half of the last decimal that is logged, in MiB


def _holds(name: str, at: int) -> None:
    logged = LOGGED[name][at]
    found = compute_buffers(setup_of(MODELS[name], **STARTS[at]))
    assert found == {CPU: pytest.approx(logged * MIB, abs=HUNDREDTH * MIB)}, STARTS[at]


@pytest.mark.parametrize("name", MODELS)
def test_buffers_are_those_a_real_server_logs(name: str) -> None:
    """Each model in one of the ways to start."""
    _holds(name, list(MODELS).index(name) % len(STARTS))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_buffers_of_every_start_are_those_a_real_server_logs(name: str) -> None:
    """With and without flash attention, in several contexts, batches, numbers of slots and types of the cache."""
    for at in range(len(STARTS)):
        _holds(name, at)


def test_every_start_was_logged() -> None:
    """There is a number for each model and start."""
    assert all(len(row) == len(STARTS) and None not in row for row in LOGGED.values())
    assert set(LOGGED) == set(MODELS)


def published(row: dict[str, Any]) -> GraphSetup:
    """Return a dense model with a log's sizes on its devices."""
    layers, heads, kv_heads, dim = row["layers"], row["heads"], row["kv_heads"], row["head_dim"]
    hidden, ffn, vocab = row["hidden"], row["ffn"], row["vocab"]
    placed = [device for device, count in row["placed"] for _ in range(count)]
    kind, of_output = BY_NAME[row["type"]], BY_NAME[row["output_type"]]
    tensors = {
        "token_embd.weight": Stored((hidden, vocab), of_output, CPU),
        "output_norm.weight": Stored((hidden,), BY_NAME["F32"], placed[-1]),
        "output.weight": Stored((hidden, vocab), of_output, placed[-1]),
    }
    halves = row["arch"] == "glm4"
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,), "ffn_norm": (hidden,), "attn_q": (hidden, heads * dim),
        "attn_k": (hidden, kv_heads * dim), "attn_v": (hidden, kv_heads * dim), "attn_output": (heads * dim, hidden),
        "ffn_up": (hidden, ffn * (2 if halves else 1)), "ffn_down": (ffn, hidden),
        **({} if halves else {"ffn_gate": (hidden, ffn)}),
        **({"attn_q_norm": (dim,), "attn_k_norm": (dim,)} if row["arch"] == "qwen3" else {}),
    }  # fmt: skip
    for il in range(layers):
        for name, shape in shapes.items():
            of = BY_NAME["F32"] if len(shape) == 1 else kind
            tensors[f"blk.{il}.{name}.weight"] = Stored(shape, of, placed[il])
    sizes = Hparams(*((n,) * layers for n in (heads, kv_heads, dim, dim)), (False,) * layers, (True,) * layers)
    return GraphSetup(
        row["arch"], tensors, sizes, row["n_ctx"], row["n_ctx"], n_ubatch=row["n_ubatch"], kv_unified=True,
        n_seq_max=row["slots"], flash_attn=row["flash_attn"], type_k=BY_NAME[row["kv"]], type_v=BY_NAME[row["kv"]],
        devices=(*row["mib"],), layer_devices=tuple(placed[:-1]), kv_devices=tuple(placed[:-1]),
        full_offload=CPU not in placed, pipeline=row["pipeline"], build=getattr(builds, row["build"]),
    )  # fmt: skip


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row["id"])
def test_buffers_of_gpus_are_those_of_published_logs(row: dict[str, Any]) -> None:
    """One GPU, two with several batches under way, layers that stay with the host: as users' servers logged it."""
    found = compute_buffers(published(row))
    assert found == {name: pytest.approx(mib * MIB, abs=2 * HUNDREDTH * MIB) for name, mib in row["mib"].items()}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3", "deepseek2", "mamba2", "qwen3next", "gemma4")]


@pytest.mark.parametrize("name", ["qwen2", *SLOW])
def test_few_layers_show_what_all_do(name: str) -> None:
    """The buffers of a deep model are those of playing all of its layers, in any context."""
    config = {**MODELS[name], "num_hidden_layers": 41}
    if "layer_types" in config:
        config["layer_types"] = (config["layer_types"] * 7)[:41]
    for start in ({"n_ctx": 4096, "flash_attn": False}, {"n_ctx": 1024, "n_parallel": 2, "kv_unified": True}):
        setup = setup_of(config, **start)
        for cells in (setup.cells, 3 * setup.cells):
            at = replace(setup, cells=cells, n_ctx=cells)
            whole = reserve(at, min(at.n_ctx, at.n_ubatch), at.n_outputs_max)
            one = reserve(at, at.n_seq_max, at.n_seq_max)
            assert compute_buffers(at) == {CPU: max(whole[CPU], one[CPU])}


def test_more_context_or_batch_never_takes_less() -> None:
    """Buffers grow with context and batch."""
    setup = setup_of(tiny.CONFIGS["llama"], 4096, flash_attn=False)
    sizes = [compute_buffers(replace(setup, cells=n, n_ctx=n))[CPU] for n in (512, 4096, 65536)]
    assert sizes == sorted(sizes)
    sizes = [compute_buffers(replace(setup, n_ubatch=n))[CPU] for n in (1, 64, 512, 2048)]
    assert sizes == sorted(sizes)


def test_an_architecture_without_a_graph_is_refused_by_name() -> None:
    """What is not known is not guessed."""
    setup = replace(setup_of(tiny.CONFIGS["llama"], 4096), arch="rwkv7")
    with pytest.raises(UnsupportedError, match="rwkv7"):
        compute_buffers(setup)


def test_a_tensor_that_is_missing_is_named() -> None:
    """A file without one of the tensors of its architecture makes no graph."""
    setup = setup_of(tiny.CONFIGS["llama"], 4096)
    with pytest.raises(UnsupportedError, match="without ffn_down in layer 2"):
        compute_buffers(replace(setup, tensors={k: v for k, v in setup.tensors.items() if "2.ffn_down" not in k}))


def test_older_builds_reserve_more() -> None:
    """A build by its number: row by row it has what later pull requests changed."""
    assert build_of(None) == build_of(11549) == Build()
    assert [all_outputs(number) for number in (9272, 9670, None)] == [True, False, False]
    setup = setup_of(tiny.CONFIGS["llama"], 16384)
    sizes = [compute_buffers(replace(setup, build=build_of(number)))[CPU] for number in (9272, 9670, 9671)]
    mask = 512 * 16384
    assert sizes[0] - sizes[1] > 2 * mask, "in F32 with a cast beside it, not in F16"
    assert sizes[1] == sizes[2]


def _on_gpu(name: str, build: Build, **start: Any) -> GraphSetup:
    """Return a tiny model with all of its layers on one GPU."""
    setup = setup_of(MODELS[name], **start)
    layers = ("CUDA0",) * setup.hparams.n_layer
    there = {
        tensor: replace(stored, device=CPU if tensor == "token_embd.weight" else "CUDA0")
        for tensor, stored in setup.tensors.items()
    }
    return replace(
        setup, tensors=there, devices=("CUDA0", CPU), layer_devices=layers, kv_devices=layers, full_offload=True,
        build=build,
    )  # fmt: skip


def test_a_quantised_cache_has_copies_beside_flash_attention() -> None:
    """New CUDA builds keep one layer's keys and values in F16 behind the result, old ones take them elsewhere."""
    start = {"n_ctx": 32768, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}
    new = compute_buffers(_on_gpu("llama", Build(), **start))
    old = compute_buffers(_on_gpu("llama", Build(kernel_copies=False), **start))
    copies = 2 * 32768 * 2 * 64 * 2  # keys and values, cells, heads, their size, F16
    assert old["CUDA0"] < new["CUDA0"] <= old["CUDA0"] + copies
    assert new[CPU] == old[CPU]
    plain = [compute_buffers(_on_gpu("llama", Build(kernel_copies=on), n_ctx=32768)) for on in (True, False)]
    assert plain[0] == plain[1], "an F16 cache is read as it is"


def test_fused_kernels_keep_what_they_read() -> None:
    """The sum of the experts' outputs is not written over them where one kernel makes it of them."""
    fused = compute_buffers(_on_gpu("qwen3moe", Build(), n_ctx=4096))["CUDA0"]
    apart = compute_buffers(_on_gpu("qwen3moe", Build(fused=False), n_ctx=4096))["CUDA0"]
    outputs = 512 * 2 * 512 * 4  # hidden size, experts of a token, tokens, F32
    assert apart < fused <= apart + 2 * outputs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3moe", "deepseek2", "gpt-oss", "gemma4-moe"])
def test_few_layers_show_what_all_do_on_a_gpu(name: str) -> None:
    """Fused kernels are the same in each layer too."""
    at = _on_gpu(name, Build(), n_ctx=4096)
    whole = reserve(at, min(at.n_ctx, at.n_ubatch), at.n_outputs_max)
    one = reserve(at, at.n_seq_max, at.n_seq_max)
    assert compute_buffers(at) == {device: max(whole[device], one[device]) for device in whole}
