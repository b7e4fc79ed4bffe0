"""What flags of other programs are called here: an unknown one is answered with the word to type."""

from __future__ import annotations

import click

# Of transformers' TrainingArguments, TRL, PEFT, axolotl, LLaMA-Factory and model cards; hyphens stand for underscores.
FLAGS = {
    "activation-offloading": "--activation-offload trl",
    "apollo-rank": "--optim-rank",
    "attn-impl": "--attention",
    "attn-implementation": "--attention",
    "batch-size": "--batch",
    "bf16": "--precision bf16",
    "bnb-4bit-quant-type": "--quantization nf4 or fp4",
    "context-length": "--seq (of serve --context)",
    "cutoff-len": "--seq",
    "deepspeed": "--zero-stage",
    "dtype": "--precision",
    "finetuning-type": "--method",
    "flash-attention": "--attention flash_attention_2",
    "flash-attn": "--attention flash_attention_2",
    "foreach": "--implementation foreach",
    "fp16": "--precision fp16",
    "freeze-vit": "--freeze-vision",
    "fused": "--implementation fused",
    "galore-rank": "--optim-rank",
    "gradient-accumulation-steps": "--accumulation",
    "gradient-checkpointing": "--checkpointing non-reentrant (or reentrant)",
    "load-in-4bit": "--quantization nf4 (with LoRA: --method qlora)",
    "load-in-8bit": "--quantization int8",
    "gradient-checkpointing-kwargs": "--checkpointing reentrant or non-reentrant",
    "lora": "--method lora",
    "lora-dropout": "--adapter-dropout",
    "lora-r": "--rank",
    "lora-rank": "--rank",
    "lora-target": "--targets",
    "lora-target-modules": "--targets",
    "max-completion-length": "--seq (prompt and answer together)",
    "max-grad-norm": "--clip",
    "max-length": "--seq",
    "max-prompt-length": "--prompt-len",
    "max-seq-len": "--seq",
    "max-seq-length": "--seq",
    "micro-batch-size": "--batch",
    "num-virtual-tokens": "--virtual-tokens",
    "optim-args": "--optim-rank (the rank of projections)",
    "optimizer-in-bwd": "--optimizer-in-backward",
    "per-device-train-batch-size": "--batch",
    "qlora": "--method qlora",
    "qgalore-rank": "--optim-rank",
    "quant-bits": "--quantization nf4 or int8",
    "quantization-bit": "--quantization nf4 or int8",
    "sample-packing": "--packing --padding-free",
    "multipack": "--packing --padding-free",
    "neat-packing": "--packing --padding-free",
    "seqlen": "--seq",
    "sequence-len": "--seq",
    "sequence-length": "--seq",
    "target-modules": "--targets",
    "torch-compile": "--compile",
    "torch-dtype": "--precision",
    "train-type": "--method",
    "tuner-type": "--method",
    "use-adam-mini": "--optim adam-mini",
    "use-apollo": "--optim apollo_adamw",
    "use-badam": "--method badam",
    "use-dora": "--method dora",
    "use-galore": "--optim galore_adamw",
    "use-gradient-checkpointing": "--checkpointing non-reentrant (or unsloth)",
    "use-liger-kernel": "--loss liger --kernels liger",
    "use-peft": "--method lora",
    "use-rslora": "--method lora (another factor, the same bytes)",
}
IDLE = frozenset(
    {
        "adam-beta1", "adam-beta2", "dataset", "dataset-name", "epochs", "eval-steps", "learning-rate", "logging-steps",
        "lora-alpha", "lr", "lr-scheduler-type", "max-steps", "num-epochs", "num-train-epochs", "output-dir",
        "report-to", "save-steps", "seed", "warmup-ratio", "warmup-steps", "weight-decay",
    }
)  # fmt: skip
MANY = frozenset({"fsdp", "nnodes", "nproc-per-node", "num-gpus", "num-processes", "pipeline-parallel-size"})
# What starts a training elsewhere: a pasted command begins with it.
LAUNCHERS = frozenset({"accelerate", "axolotl", "deepspeed", "llamafactory-cli", "swift", "torchrun", "trl", "tune"})
JOBS = ("train", "serve")


class Command(click.Command):
    """A command that knows what other programs call its options, and which of oomph's commands takes them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words; an unknown flag is answered with what it is called here."""
        first = next((word for word in args if word != "--"), "")
        if first in LAUNCHERS and ctx.info_name in ("train", "plan"):
            instead = "Write its arguments into a file, one `name: value` a line: --config FILE reads them."
            raise click.UsageError(f"oomph does not read commands of {first}. {instead}", ctx)
        engine = any(word == "-e" or word.startswith("--engine") for word in args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            fix = _fix(error.option_name, ctx.info_name or "", engine)
            if fix is None:
                raise
            raise click.UsageError(f"No such option '{error.option_name}'. {fix}", ctx) from None


def _fix(flag: str, command: str, engine: bool) -> str | None:
    """Return what to type in place of a flag, or None where nothing is known of it."""
    if engine and command != "weigh":
        return f"The engine's own flags stand behind --: oomph {command} MODEL --engine NAME -- FLAGS."
    name = flag.lstrip("-").lower().replace("_", "-")
    here = FLAGS.get(name)
    if command == "weigh":
        takes = [name for name in JOBS if here or flag in _options(name)]
        return f"It belongs to a job: oomph {takes[0]} MODEL {here or flag}." if takes else None
    if here:
        return f"Here that is {here}."
    if name in IDLE:
        return "It moves no memory: leave it out."
    return "oomph plays one GPU: leave it out." if name in MANY else None


def _options(name: str) -> set[str]:
    """Return the flags of a command that works out jobs."""
    from importlib import import_module

    from oomph.cli.app import ELSEWHERE

    command: click.Command = getattr(import_module(ELSEWHERE[name]), name)
    return {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
