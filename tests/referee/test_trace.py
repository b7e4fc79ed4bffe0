"""The trace against the truth: real CPU runs, numbers from elsewhere, and what it must not leave behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob
from oomph.stream import Event, Stream
from tests.referee import models

pytestmark = pytest.mark.slow
SMALL: dict[str, Any] = {"batch": 2, "seq_len": 37}


def train(**changes: Any) -> TrainJob:
    return TrainJob(**{**SMALL, **changes})


def infer(**changes: Any) -> InferJob:
    return InferJob(**{**SMALL, **changes})


def ordered(stream: Stream) -> list[Event]:
    """Return the events with runs of frees sorted: autocast clears its cache in the order of a hash map."""
    events, run = [], []
    for event in stream.events:
        if event.n_bytes < 0:
            run.append(event)
        else:
            events += [*sorted(run), event]
            run = []
    return events + sorted(run)


def assert_same(raw: dict[str, Any], job: TrainJob | InferJob, device: Any) -> None:
    from oomph.referee.trace import trace

    fake, real = (trace(raw, job, device=device, real=real) for real in (False, True))
    if job.precision.startswith("amp-"):
        assert ordered(fake.stream) == ordered(real.stream)
    else:
        assert fake.stream.events == real.stream.events
        assert fake.stream.labels == real.stream.labels
    assert fake.stream.marks == real.stream.marks
    assert fake.gradient_bytes == real.gradient_bytes > 0 or isinstance(job, InferJob)
    assert fake.optimizer_bytes == real.optimizer_bytes


CPU_CASES = {
    "llama bf16": (models.LLAMA, train()),
    "llama fp32, one sequence": (models.LLAMA, train(batch=1, precision="fp32")),
    "eager": (models.LLAMA, train(attention="eager", hold_logits=False)),
    "checkpointing": (models.LLAMA, train(checkpointing="non-reentrant", checkpoint_every=2)),
    "reentrant": (models.LLAMA, train(checkpointing="reentrant")),
    "gpt-2 with dropout": (models.GPT2, train()),
    "qwen3, accumulation": (models.QWEN3, train(accumulation=2, fp32_outputs=True)),
    "qwen3-moe, grouped_mm": (models.QWEN3_MOE, train()),
    "mixtral fp32": (models.MIXTRAL, train(precision="fp32", steady=False)),
    "autocast, tied": (models.TIED, train(precision="amp-bf16", checkpointing="non-reentrant")),
    "fused, clipped": (models.LLAMA, train(implementation="fused", clip_gradients=True)),
    "momentum, gradients kept": (models.LLAMA, train(optimizer="sgd-momentum", set_to_none=False, use_cache=True)),
    "padding": (models.LLAMA, train(padding=True, implementation="loop")),
    "packing": (models.LLAMA, train(packing=True)),
    "packing, one token": (models.LLAMA, train(packing=True, seq_len=1)),
    "packing, a cache": (models.LLAMA, train(packing=True, use_cache=True)),
    "packing, gpt-2": (models.GPT2, train(packing=True, attention="eager", checkpointing="reentrant")),
    "packing, sliding window": (models.MISTRAL, train(packing=True, batch=1, precision="fp32", accumulation=2)),
    "sliding window": (models.MISTRAL, train(optimizer="none")),
    "decode": (models.LLAMA, infer(decode=2)),
    "decode, static, padded": (models.LLAMA, infer(decode=2, cache="static", padding=True)),
}


@pytest.mark.parametrize("name", CPU_CASES)
def test_fake_equals_real_on_cpu(name: str) -> None:
    """A fake run and a real one, both with the CPU's kernels, have the same events, labels and instants."""
    assert_same(*CPU_CASES[name], "cpu")


CUDA_CASES = {
    "autocast lists": (models.LLAMA, train(precision="amp-bf16", attention="eager")),
    "autocast lists, layer norm": (models.GPT2, train(precision="amp-bf16", attention="eager")),
    "native dropout": (models.GPT2, train(attention="eager")),
    "math kernel, grouped queries": (models.LLAMA, train(attention="math")),
    "math kernel, mask": (models.LLAMA, train(attention="math", padding=True)),
    "softcap": (models.GEMMA2, train(attention="eager")),
}


@pytest.mark.parametrize("name", CUDA_CASES)
def test_fake_equals_real_with_cuda_routes(name: str) -> None:
    """The re-routed operations that also exist on a CPU allocate the same for fake and for real."""
    assert_same(*CUDA_CASES[name], "cuda")


@pytest.mark.parametrize("checkpointing", ["none", "reentrant", "non-reentrant"])
def test_marks_change_nothing(checkpointing: str) -> None:
    """The hooks that mark layers neither hold nor free a byte."""
    from oomph.referee.trace import trace

    job = train(checkpointing=checkpointing)
    plain, marked = (trace(models.LLAMA, job, layer_marks=marks).stream for marks in (False, True))
    assert plain.events == marked.events
    names = [name for _, name in marked.marks]
    assert names == [
        "parameters", "optimizer states", "forward", "layer 0 forward", "layer 1 forward", "head", "loss", "backward",
        "layer 1 backward", "layer 0 backward", "optimizer step", "zero_grad",
    ]  # fmt: skip


def saved_per_layer(raw: dict[str, Any], job: TrainJob, layers: str = "num_hidden_layers") -> int:
    """Bytes that the second of two layers leaves alive at the end of forward."""
    from oomph.referee.trace import phases, trace

    def grown(count: int) -> int:
        found = {each.name: each for each in phases(trace({**raw, layers: count}, job).stream)}
        return found["backward"].start_bytes - found["forward"].start_bytes

    return grown(2) - grown(1)


QWEN3_8B = {**models.LLAMA3_8B, "model_type": "qwen3", "head_dim": 128, "intermediate_size": 12288}
MIXTRAL_8X7B = {
    **models.LLAMA3_8B, "model_type": "mixtral", "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
FORMULA = {  # T = 2048 tokens; A of each table, worked out by hand from the modules' source and the derivatives
    "flash": (models.LLAMA3_8B, {}, 411_321_344),
    "eager": (models.LLAMA3_8B, {"attention": "eager"}, 1_241_530_368),
    "autocast": (models.LLAMA3_8B, {"precision": "amp-bf16"}, 931_415_040),
    "checkpointing": (models.LLAMA3_8B, {"checkpointing": "non-reentrant"}, 2 * 2048 * 4096),
    "reentrant": (models.LLAMA3_8B, {"checkpointing": "reentrant"}, 2 * 2048 * 4096),
    "qwen3": (QWEN3_8B, {}, 441_009_152),
    "mixtral": (MIXTRAL_8X7B, {}, 713_549_312),
}


@pytest.mark.parametrize("name", FORMULA)
def test_saved_tensors_of_real_sizes(name: str) -> None:
    """What a layer of an 8B model saves for backward equals the formulas worked out by hand."""
    raw, changes, expected = FORMULA[name]
    assert saved_per_layer(raw, TrainJob(**changes, optimizer="none", steady=False)) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, 365_364_224), ({"attention": "eager"}, 868_286_464), ({"precision": "amp-bf16"}, 555_746_304)],
)
def test_saved_tensors_of_gpt2(changes: dict[str, Any], expected: int) -> None:
    """GPT-2 with dropout 0.1, batch 8 of 1024 tokens: masks, unfused GELU, layer norm."""
    job = TrainJob(batch=8, seq_len=1024, optimizer="none", steady=False, **changes)
    assert saved_per_layer({"model_type": "gpt2"}, job, "n_layer") == expected


def test_parameters_gradients_and_states() -> None:
    """AdamW keeps two tensors per parameter; its step counts are in host memory unless it is fused."""
    from oomph.referee.trace import trace

    found = {how: trace(models.LLAMA, train(implementation=how)) for how in ("foreach", "loop", "fused")}
    for each in found.values():
        assert each.gradient_bytes == each.parameter_bytes
    assert found["foreach"].optimizer_bytes == found["loop"].optimizer_bytes == 2 * found["foreach"].parameter_bytes
    parameters = sum(name.endswith("weight") for name in found["fused"].names.values())
    assert found["fused"].optimizer_bytes == 2 * found["fused"].parameter_bytes + 512 * parameters
    assert "model.layers.1.mlp.up_proj.weight.exp_avg_sq" in found["foreach"].names.values()


@pytest.mark.parametrize(
    ("raw", "job", "kernels"),
    [
        (models.LLAMA, train(), ("flash",)),
        (models.LLAMA, train(attention="cudnn"), ("cudnn",)),
        (models.LLAMA, train(padding=True), ("efficient",)),
        (models.LLAMA, train(precision="fp32"), ("math",)),
        (models.GPT2, train(precision="fp32"), ("efficient",)),
        (models.LLAMA, infer(decode=1, cache="static"), ("flash", "efficient")),
        (models.LLAMA, train(attention="eager"), ()),
    ],
)
def test_kernel_that_cuda_takes(raw: dict[str, Any], job: Any, kernels: tuple[str, ...]) -> None:
    """A mask or fp32 shuts flash out, grouped queries in fp32 leave only math; what was not asked for is said."""
    from oomph.referee.trace import trace

    found = trace(raw, job)
    assert found.kernels == kernels
    assert bool(found.warnings) == (kernels not in ((), (job.attention,)))


def test_patches_are_taken_back() -> None:
    """After a trace torch and transformers are as before, also when it failed."""
    import torch
    import transformers.masking_utils as masking
    from torch._C import _dispatch_has_kernel_for_dispatch_key as has_kernel

    from oomph.referee.trace import trace

    functional = torch.nn.functional

    def patched() -> list[Any]:
        return [
            functional.scaled_dot_product_attention, functional.dropout, functional.rms_norm, torch.nn.Module._apply,
            masking.is_tracing, masking.fast_all, torch.cuda.is_bf16_supported, has_kernel("aten::exp", "AutocastCPU"),
            has_kernel("aten::dropout", "AutogradCPU"), promoted(),
        ]  # fmt: skip

    def promoted() -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.cat([torch.ones(1), torch.ones(1, dtype=torch.bfloat16)]).dtype

    before = patched()
    trace(models.LLAMA, train(padding=True, precision="amp-bf16"))
    with pytest.raises(UnsupportedError):
        trace({"model_type": "vit"}, train())
    assert patched() == before


def test_autocast_lists_are_torch_s() -> None:
    """Each rule stands in the header of the installed torch; left out is what no language model calls."""
    import torch

    from oomph.referee import autocast

    header = (Path(torch.__file__).parent / "include/ATen/autocast_mode.h").read_text()

    def listed(macro: str) -> set[str]:
        body = re.search(rf"#define {macro}\(_\)((?:.*\\\n)*.*\n)", header)
        assert body is not None
        return {re.sub(r",\s*", ".", name) for name in re.findall(r"_\(([^)]+)\)", body[1])}

    left_out = re.compile("upsample|.*(margin|embedding|poisson)|frobenius|nuclear|pdist|cdist|_upsample|nll_loss2d")
    rest = listed("AT_FORALL_FP32") - set(autocast.FP32)
    assert set(autocast.FP32) <= listed("AT_FORALL_FP32")
    assert all(left_out.match(name) for name in rest), rest
    assert listed("AT_FORALL_FP32_SET_OPT_DTYPE") - set(autocast.FP32_UNLESS_ASKED) == {
        "linalg_matrix_norm", "linalg_matrix_norm.str_ord",
    }  # fmt: skip


def test_the_math_kernel_drops_out_as_cuda_does() -> None:
    """Dropout inside C++ keeps a boolean mask, and autocast has no say inside the kernel."""
    from oomph.referee.trace import trace

    found = trace(models.GPT2, train(attention="math", precision="amp-bf16")).stream
    scores = [label for label in found.labels.values() if label.op in ("native_dropout", "_safe_softmax")]
    weights = [label for label in scores if len(label.shape) == 4]
    assert {(label.op, label.dtype) for label in weights} == {
        ("_safe_softmax", "fp32"), ("native_dropout", "fp32"), ("native_dropout", "bool"),
    }  # fmt: skip


def test_a_class_without_position_ids_cannot_pack() -> None:
    """BLOOM knows no positions but those of its keys."""
    from oomph.referee.trace import trace

    bloom = {"model_type": "bloom", "vocab_size": 101, "hidden_size": 64, "n_layer": 1, "n_head": 2}
    with pytest.raises(UnsupportedError, match="BloomForCausalLM takes no position ids"):
        trace(bloom, train(packing=True))


def test_outputs_in_fp32_as_accelerate_does() -> None:
    """Our wrapper has the same events as accelerate's."""
    operations = pytest.importorskip("accelerate.utils.operations")
    from oomph.referee import jobs
    from oomph.referee.trace import trace

    job = train(fp32_outputs=True, precision="amp-bf16", optimizer="none")
    ours = trace(models.LLAMA, job).stream
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "returning_fp32", operations.convert_outputs_to_fp32)
        theirs = trace(models.LLAMA, job).stream
    assert ordered(ours) == ordered(theirs)
