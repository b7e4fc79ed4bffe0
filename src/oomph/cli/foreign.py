"""What flags of other programs are called here: an unknown one is answered with the word to type."""

from __future__ import annotations

import click

# Of transformers' TrainingArguments, TRL, PEFT, axolotl, LLaMA-Factory and model cards; hyphens stand for underscores.
FLAGS = {
    "activation-offloading": "--activation-offload trl",
    "apollo-rank": "--optim-rank",
    "attn-impl": "--attention",
    "attn-implementation": "--attention",
    "accumulation-steps": "--accumulation",
    "batch-size": "--batch",
    "bs": "--batch",
    "ctx": "--seq (of serve --context)",
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
    "mbs": "--batch",
    "micro-batch-size": "--batch",
    "num-generations": "--batch (completions, --accumulation of them times)",
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
    "train-batch-size": "--batch",
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
# The same of `oomph serve` without an engine, of engines, benchmarks and transformers' generate().
OF_SERVING = {
    "batch": "--concurrency",
    "batch-size": "--concurrency",
    "bs": "--concurrency",
    "cache-type-k": "--cache fp8 or quanto (of an engine: --engine NAME -- its own flags)",
    "context-length": "--context",
    "ctx": "--context",
    "ctx-size": "--context",
    "kv-cache-dtype": "--cache fp8 or quanto (of an engine: --engine NAME -- its own flags)",
    "max-length": "--context",
    "max-model-len": "--context",
    "max-new-tokens": "--decode",
    "max-num-seqs": "--concurrency",
    "max-seq-len": "--context",
    "num-beams": "--beams",
    "num-ctx": "--context",
    "num-users": "--concurrency",
    "parallel": "--concurrency",
    "seq": "--context",
    "seq-len": "--context",
    "users": "--concurrency",
}
IDLE = frozenset(
    {
        "adam-beta1", "adam-beta2", "dataset", "dataset-name", "epochs", "eval-steps", "learning-rate", "logging-steps",
        "lora-alpha", "lr", "lr-scheduler-type", "max-steps", "num-epochs", "num-train-epochs", "output-dir",
        "report-to", "save-steps", "seed", "warmup-ratio", "warmup-steps", "weight-decay",
    }
)  # fmt: skip
MANY = frozenset(
    {
        "fsdp", "nnodes", "nproc-per-node", "num-gpus", "num-processes", "pipeline-parallel-size",
        "tensor-parallel-size", "tp", "world-size",
    }
)  # fmt: skip
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


class Shown(click.Context):
    """A context that is called as people type it: `oomph MODEL` has no word for what it does."""

    @property
    def command_path(self) -> str:
        """What help and errors call the command."""
        return "oomph"


class Weighing(Command):
    """`oomph MODEL`, which is everything that begins with no command: also what begins with one that is misspelled."""

    context_class = Shown

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return what follows `oomph`, in the order people type it."""
        return ["MODEL", "[OPTIONS]"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words; a second one is a command that stands behind its model, or the first one is no model."""
        words = args[: next((at for at, word in enumerate(args) if word.startswith("-") and word != "-"), len(args))]
        if len(words) > 1:
            from oomph.errors import close_matches

            group = ctx.parent and ctx.parent.command
            known = group.list_commands(ctx) if isinstance(group, click.Group) else []
            if words[1] in known:
                raise click.UsageError(f"The command comes first: oomph {words[1]} {words[0]}.", ctx)
            meant = close_matches(words[0], known, most=1)
            if meant:
                raise click.UsageError(f"There is no command {words[0][:60]!r}. {meant}", ctx)
        return super().parse_args(ctx, args)


def _fix(flag: str, command: str, engine: bool) -> str | None:
    """Return what to type in place of a flag, or None where nothing is known of it."""
    if engine and command != "weigh":
        return f"The engine's own flags stand behind --: oomph {command} MODEL --engine NAME -- FLAGS."
    name = flag.lstrip("-").lower().replace("_", "-")
    here = (OF_SERVING.get(name) if command == "serve" else None) or FLAGS.get(name)
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
