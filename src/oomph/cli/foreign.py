"""What flags of other programs are called here: an unknown one is answered with the word to type."""

from __future__ import annotations

import click

# Of transformers' TrainingArguments, TRL, PEFT, axolotl, LLaMA-Factory and model cards; hyphens stand for underscores.
FLAGS = {
    "attn-impl": "--attention",
    "attn-implementation": "--attention",
    "batch-size": "--batch",
    "bf16": "--precision bf16",
    "bnb-4bit-quant-type": "--quantization nf4 or fp4",
    "context-length": "--seq (of serve --context)",
    "cutoff-len": "--seq",
    "dtype": "--precision",
    "finetuning-type": "--method",
    "flash-attention": "--attention flash_attention_2",
    "flash-attn": "--attention flash_attention_2",
    "fp16": "--precision fp16",
    "gradient-accumulation-steps": "--accumulation",
    "gradient-checkpointing": "--checkpointing non-reentrant (or reentrant)",
    "load-in-4bit": "--quantization nf4 (with LoRA: --method qlora)",
    "load-in-8bit": "--quantization int8",
    "lora": "--method lora",
    "lora-dropout": "--adapter-dropout",
    "lora-r": "--rank",
    "lora-rank": "--rank",
    "lora-target": "--targets",
    "lora-target-modules": "--targets",
    "max-length": "--seq",
    "max-seq-len": "--seq",
    "max-seq-length": "--seq",
    "micro-batch-size": "--batch",
    "per-device-train-batch-size": "--batch",
    "qlora": "--method qlora",
    "quantization-bit": "--quantization nf4 or int8",
    "sample-packing": "--packing --padding-free",
    "multipack": "--packing --padding-free",
    "neat-packing": "--packing --padding-free",
    "seqlen": "--seq",
    "sequence-len": "--seq",
    "sequence-length": "--seq",
    "torch-dtype": "--precision",
    "use-peft": "--method lora",
}
JOBS = ("train", "serve")


class Command(click.Command):
    """A command that knows what other programs call its options, and which of oomph's commands takes them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words; an unknown flag is answered with what it is called here."""
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
    here = FLAGS.get(flag.lstrip("-").lower().replace("_", "-"))
    if command == "weigh":
        takes = [name for name in JOBS if here or flag in _options(name)]
        return f"It belongs to a job: oomph {takes[0]} MODEL {here or flag}." if takes else None
    return f"Here that is {here}." if here else None


def _options(name: str) -> set[str]:
    """Return the flags of a command that works out jobs."""
    from importlib import import_module

    from oomph.cli.app import ELSEWHERE

    command: click.Command = getattr(import_module(ELSEWHERE[name]), name)
    return {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
