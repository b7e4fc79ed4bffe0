"""Flags and values of other programs: the error says what they are called here."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from oomph.cli.foreign import FLAGS, IDLE, MANY, OF_SERVING
from oomph.cli.job_options import NO_METHODS, VALUES, Names
from oomph.formats import LOOSE
from oomph.formats.registry import FORMATS
from oomph.job_words import Method, OptimizerName
from tests.test_cli import run


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ("train llama-3.1-8b --load-in-4bit", "--quantization nf4 (with LoRA: --method qlora)"),
        ("train llama-3.1-8b --per_device_train_batch_size 4", "Here that is --batch."),
        ("plan llama-3.1-8b --lora-r 16 --gpu t4", "Here that is --rank."),
        ("llama-3.1-8b --method qlora", "oomph train MODEL --method"),
        ("llama-3.1-8b --engine vllm", "oomph serve MODEL --engine"),
        ("llama-3.1-8b --bf16", "oomph train MODEL --precision bf16"),
        ("serve llama-3.1-8b -e vllm --max-model-len 8192", "oomph serve MODEL --engine NAME -- FLAGS"),
        ("serve llama-3.1-8b -e llama.cpp -ngl 20", "oomph serve MODEL --engine NAME -- FLAGS"),
        ("max llama-3.1-8b -e vllm -g t4 -tp 2", "oomph max MODEL --engine NAME -- FLAGS"),
        ("train llama-3.1-8b --attention fa2", "Did you mean flash_attention_2?"),
        ("train llama-3.1-8b --attention sdpa", "Did you mean flash?"),
        ("train llama-3.1-8b --precision bfloat16", "Did you mean bf16?"),
        ("train llama-3.1-8b --sequence 8", "--seq"),
        ("train llama-3.1-8b --method pissa", "Did you mean lora?"),
        ("train llama-3.1-8b --method galore", "Say --optim galore_adamw."),
        ("train llama-3.1-8b --optim q_galore", "Did you mean q_galore_adamw8bit?"),
        ("train llama-3.1-8b --method lora --quantization bnb_4bit", "Did you mean nf4?"),
        ("train llama-3.1-8b --method lora --use_rslora", "Here that is --method lora"),
        ("train -- llamafactory-cli train --stage sft", "into a file, one `name: value` a line: --config FILE"),
        ("train llama-3.1-8b --learning_rate 1e-4", "It moves no memory: leave it out."),
        ("train llama-3.1-8b --nproc_per_node 8", "oomph plays one GPU: leave it out."),
        ("train llama-3.1-8b --bs 4", "Here that is --batch."),
        ("train llama-3.1-8b --checkpointing on", "Did you mean non-reentrant?"),
        ("serve llama-3.1-8b --batch-size 4", "Here that is --concurrency."),
        ("serve llama-3.1-8b --max-model-len 4096", "Here that is --context."),
        ("llama-3.1-8b train --gpu t4", "The command comes first: oomph train llama-3.1-8b."),
        ("trian llama-3.1-8b", "There is no command 'trian'. Did you mean train?"),
        ("train llama-3.1-8b --gpu 4090,3090", "oomph plan says which of a list hold a job"),
        ("train llama-3.1-8b --precision fp8", "training in fp8 (Transformer Engine, torchao) is not modelled"),
        ("train llama-3.1-8b --freeze-layers 33", "The model has 32 layers, not 33."),
        ("llama-3.1-8b --nope", "Usage: oomph MODEL [OPTIONS]"),
        ("llama-3.1-8b --format 4bit", "Say which: nf4 and nf4-dq (bitsandbytes)"),
        ("llama-3.1-8b --format gptq", "Say which: gptq-4bit-g128 (most of them)"),
        ("serve llama-3.1-8b --format awq", "as transformers itself quantises them: --quantization."),
        ("train llama-3.1-8b --tensor-parallel-size 2", "oomph plays one GPU: leave it out."),
        ("llama-3.1-8b --gpu 24G", "A size needs a unit: 24GiB or 80GB."),
        ("llama-3.1-8b --gpu -5GB", "A size is above 0"),
        ("mistral", "Did you mean mistral-7b-v0.1,"),
        ("train llama-3.1-8b --use_liger_kernel", "Here that is --loss liger --kernels liger."),
    ],
)
def test_an_unknown_flag_is_answered_with_ours(capsys: pytest.CaptureFixture[str], words: str, fix: str) -> None:
    """What people paste from a trainer, a model card or an engine's command."""
    code, _, err = run(capsys, *words.split())
    assert code == 2
    assert fix in " ".join(err.split())


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("AdamW", "adamw"), ("adamw8bit", "adamw_8bit"), ("adam_mini", "adam-mini"), ("apollo_mini", "apollo-mini"),
        ("q_galore_adamw_8bit", "q_galore_adamw8bit"), ("SGD", "sgd"), ("ao_adamw_4bit", "torchao-adamw-4bit"),
        ("torch.optim.AdamW", "adamw"), ("adopt_adamw", "adopt"), ("adamw-torch-fused", "adamw_torch_fused"),
        ("adamw_torch_fused", "adamw_torch_fused"), ("bitsandbytes.optim.PagedAdamW8bit", "paged_adamw_8bit"),
    ],
)  # fmt: skip
def test_an_optimizer_is_known_by_its_letters_and_by_names_of_config_files(typed: str, ours: str) -> None:
    """Case, hyphens and underscores do not count; axolotl's and torchtune's names are what their files mean."""
    assert Names(get_args(OptimizerName)).convert(typed, None, None) == ours


@pytest.mark.parametrize("typed", ["LoRA", "QLoRA", "lora_fa", "(IA)3", "BitFit", "prefix_tuning", "P-Tuning"])
def test_a_method_is_known_by_its_letters(typed: str) -> None:
    """As papers write it, or as PEFT calls it."""
    assert Names(get_args(Method)).convert(typed, None, None) in get_args(Method)


def test_what_is_proposed_exists() -> None:
    """Each flag that stands in for another is one of `oomph train`, each value one of an input's."""
    from oomph.cli.jobs import train
    from oomph.cli.serve import serve

    ours = {flag for param in train.params for flag in param.opts}
    assert {text.split()[0] for text in (*FLAGS.values(), *NO_METHODS.values())} <= ours
    choices = {str(choice) for param in train.params for choice in getattr(param.type, "choices", ())}
    assert {*VALUES.values()} <= choices
    serving = {flag for param in serve.params for flag in (*param.opts, *param.secondary_opts)}
    assert {text.split()[0] for text in OF_SERVING.values()} <= serving
    assert not {f"--{flag}" for flag in OF_SERVING} & serving
    assert {name for text in LOOSE.values() for name in re.findall(r"[a-z]\w*[-_\d][-\w]*", text)} <= FORMATS.keys()
    assert not {f"--{flag}" for flag in (*FLAGS, *IDLE, *MANY)} & ours
