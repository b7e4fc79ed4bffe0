"""Quantised weights in jobs without gradients, and what transformers 4.38's and 4.51's generate() do otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph import formats, weigh
from oomph.blocks.basic import Linear
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.formats import fp8, gptq
from oomph.formats.linear import Matrix
from oomph.job import InferJob
from oomph.job_words import ServedQuantization
from oomph.methods import fp8 as fp8_map
from oomph.methods import gptq as gptq_map
from oomph.methods.quantised import Base, stored_tensor
from oomph.play_infer import infer
from oomph.tape import Tape
from oomph.tape.bound import Bound
from tests.configs import LLAMA_3_8B

QWEN = model_from_config(
    {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24,
        "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "max_position_embeddings": 32768, "use_sliding_window": False,
    }
)  # fmt: skip
LLAMA = model_from_config(LLAMA_3_8B)
RECORDED = json.loads((Path(__file__).parent / "served_events.json").read_text())
KV = 2 * 24 * 2 * 64 * 2  # bytes of a token in Qwen2-0.5B's cache
VOCAB, HIDDEN, FFN = 151936, 896, 4864


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda one: "-".join(str(one[key]) for key in list(one)[:3]))
def test_a_map_allocates_what_the_real_one_does(case: dict[str, Any]) -> None:
    """Every allocation and free of a forward pass, as recorded from auto_gptq's and transformers' own classes."""
    inputs, outputs, group = (RECORDED["map"][name] for name in ("inputs", "outputs", "group"))
    name = "fp8" if case["kernel"] == "fp8" else f"gptq-{case['bits']}bit-g{group}"
    scheme = fp8.blocks() if name == "fp8" else gptq.Gptq(case["bits"], group)
    stored = dict(stored_tensor(one, "map") for one in scheme.tensors(Matrix("map", outputs, inputs, 1, "fp16")))
    library: Any = fp8_map if name == "fp8" else gptq_map
    dtype = {"float16": "fp16", "bfloat16": "bf16"}[case["dtype"]]
    block = library.quantised_linear(
        Linear(inputs, outputs, case["bias"]), stored, Base(name, dtype, dtype, case["kernel"], "5")
    )
    tape = Tape("trace")
    tape.training = False
    with tape.playing(), tape.no_grad():
        bound = Bound(block, tape, dtype)
        x = tape.empty((1, case["rows"], inputs), dtype)
        before, start = len(tape.recorder.allocations), len(tape.recorder.events)
        out = bound(x)
        del out
        events = tape.recorder.events[start:]
    sizes = [one.n_bytes for one in tape.recorder.allocations[before:]]
    assert sizes == case["sizes"]
    assert [at - before if at >= 0 else at + before for at in events] == case["events"]


def test_weights_are_what_their_format_stores() -> None:
    """Codes, scales and all else from formats/, tensor by tensor in whole blocks of 512 B."""
    names: tuple[ServedQuantization, ...] = ("nf4", "nf4-dq", "int8", "gptq-4bit-g128", "gptq-8bit-g128", "awq", "fp8")
    for name in names:
        precision = "bf16" if name == "fp8" else "fp16"
        played = infer(LLAMA, InferJob(1, 8, precision=precision, quantization=name))  # type: ignore[arg-type]
        kept = weigh.in_format(LLAMA, replace(formats.get(name), rest=precision)).tensors
        assert played.kept("parameter") == sum(-(-n_bytes // 512) * 512 * copies for n_bytes, copies in kept), name


def test_exllama_keeps_room_for_the_largest_map() -> None:
    """A weight of 896 x 4864 in fp16, allocated once; no product allocates a weight of its own."""
    job = InferJob(1, 300, precision="fp16", quantization="gptq-4bit-g128", gptq_kernel="exllama")
    exllama = infer(QWEN, job)
    unpacking = infer(QWEN, replace(job, gptq_kernel="gptqmodel"))
    assert exllama.resident - unpacking.resident == 2 * HIDDEN * FFN + 512
    assert unpacking.peak - unpacking.resident > exllama.peak - exllama.resident


def test_auto_gptq_computes_few_rows_with_packed_weights() -> None:
    """Below 128 rows its kernel takes fp32 copies of input, scales and result; from 128 on a weight is unpacked."""
    job = InferJob(1, 127, precision="fp16", quantization="gptq-8bit-g128", gptq_kernel="cuda-old")
    few, many = (infer(QWEN, replace(job, seq_len=rows)) for rows in (127, 128))
    assert few.peak - few.resident < 6 * HIDDEN * FFN < many.peak - many.resident


def test_activations_in_fp8_are_not_at_the_peak() -> None:
    """What comes into the last map of an MLP is quantised to a byte: less than the three tensors that made it."""
    reading = InferJob(1, 4096, cache="none")
    plain, fp8 = (infer(LLAMA, replace(reading, quantization=name)) for name in ("none", "fp8"))  # type: ignore[arg-type]
    assert fp8.peak - fp8.resident == plain.peak - plain.resident
    sizes = {one.n_bytes for one in fp8.recorder.allocations}
    assert {4096 * 14336, 4 * 4096 * 14336 // 128} <= sizes


def test_4_38_makes_fp32_logits_of_every_token() -> None:
    """Two bytes and four for each token and word, where 5 makes those of one token."""
    tokens = 2048
    old, new = (infer(QWEN, InferJob(1, tokens, release=name)) for name in ("4.38", "5"))  # type: ignore[arg-type]
    logits = tokens * VOCAB * (2 + 4)
    assert logits < old.peak - old.resident - tokens * KV < logits + 3 * tokens * HIDDEN * 2
    assert new.peak - new.resident < logits / 10


def test_4_38_keeps_sines_and_cosines_in_each_layer() -> None:
    """2 tables of 32768 positions and 64 channels in bf16, 24 times."""
    old, new = (infer(QWEN, InferJob(1, 8, release=name)) for name in ("4.38", "5"))  # type: ignore[arg-type]
    assert old.resident - new.resident == 24 * 2 * 32768 * 64 * 2


def test_4_38_holds_the_cache_twice_while_it_writes() -> None:
    """The tuple that generate() handed in, and the one that grew; 5 holds one, and a layer of it twice."""
    tokens = 4096
    old, new = (infer(QWEN, InferJob(1, tokens, decode=1, release=name)) for name in ("4.38", "5"))  # type: ignore[arg-type]

    def writing(played: object) -> int:
        live = played.live[played.forward_end :]  # type: ignore[attr-defined]
        return int(max(live)) - played.resident  # type: ignore[attr-defined]

    assert writing(old) > 2 * tokens * KV
    assert writing(new) < 1.2 * tokens * KV


def test_4_51_repeats_key_heads_while_it_writes() -> None:
    """Keys and values of one layer for all 14 heads beside the cache, which 5 leaves to the kernel."""
    tokens = 8192
    old, new = (infer(QWEN, InferJob(1, tokens, decode=1, release=name)) for name in ("4.51", "5"))  # type: ignore[arg-type]
    repeated = 2 * 14 * 64 * 2 * (tokens + 1)
    assert max(old.live[old.forward_end :]) - old.live[-1] >= repeated > max(new.live[new.forward_end :]) - new.live[-1]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"quantization": "gptq-8bit-g128", "gptq_kernel": "exllama"}, "4 bits"),
        ({"compute_fp32": True}, "4-bit maps"),
        ({"release": "4.38", "cache": "static"}, "growing cache"),
        ({"release": "4.38", "attention": "eager"}, "growing cache"),
    ],
)
def test_what_does_not_go_together_is_refused(inputs: dict[str, object], says: str) -> None:
    """With what to do instead."""
    with pytest.raises(UsageError, match=says):
        InferJob(**inputs)  # type: ignore[arg-type]


def test_4_38_is_known_of_qwen2_alone() -> None:
    """Other classes of that release kept other tables."""
    with pytest.raises(UnsupportedError, match=r"4\.38 of Qwen2"):
        infer(LLAMA, InferJob(1, 8, release="4.38"))


def test_quantised_stacks_of_experts_are_refused() -> None:
    """A checkpoint's experts are quantised too; apart, as transformers 4 built them, they are played."""
    raw = {
        "model_type": "qwen3_moe", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 256,
        "num_hidden_layers": 2, "moe_intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 64,
    }  # fmt: skip
    model, job = model_from_config(raw), InferJob(1, 8, quantization="fp8")
    with pytest.raises(UnsupportedError, match="stacked experts"):
        infer(model, job)
    apart = infer(model, replace(job, experts="modules"))
    kept = weigh.in_format(model, formats.get("fp8")).tensors
    assert apart.kept("parameter") == sum(-(-n_bytes // 512) * 512 * copies for n_bytes, copies in kept)
