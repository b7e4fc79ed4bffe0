"""Options that describe a job, one per field of TrainJob and InferJob, with the fields' own types and defaults.

`train_options` and `infer_options` are decorators for commands about one kind of job, `either_options` for those that
take both (`--infer` switches). The parsed values come to the command under the names of the fields; `train_job` and
`infer_job` make the job of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

from oomph.errors import UsageError, close_matches, letters
from oomph.job import InferJob, TrainJob
from oomph.job_checks import field_types
from oomph.job_tells import idle_inputs
from oomph.job_words import FLASH_ATTN_NAMES
from oomph.optimizer_names import REFUSED
from oomph.runtimes.base import Defaults, Versions, given_way
from oomph.runtimes.peft import prepared

Command = TypeVar("Command", bound=Callable[..., Any])
Job = type[TrainJob] | type[InferJob]

# What other programs call values of options.
VALUES: dict[str, str] = {
    **FLASH_ATTN_NAMES,
    "4bit": "nf4",
    "8bit": "int8",
    "apollo": "apollo_adamw",
    "awq-4bit": "awq",
    "bf16-mixed": "amp-bf16",
    "bf16-true": "bf16",
    "bfloat16": "bf16",
    "bitsandbytes": "nf4",
    "bnb-4bit": "nf4",
    "bnb-8bit": "int8",
    "causal-conv1d+fla": "fla+causal-conv1d",
    "causal-conv1d+mamba-ssm": "mamba-ssm+causal-conv1d",
    "causal_conv1d": "causal-conv1d",
    "enabled": "non-reentrant",
    "flash-linear-attention": "fla",
    "mamba_ssm": "mamba-ssm",
    "float16": "fp16",
    "float32": "fp32",
    "full": "non-reentrant",
    "gptq": "gptq-4bit-g128",
    "gptq-4bit": "gptq-4bit-g128",
    "half": "fp16",
    "hqq": "hqq-4bit",
    "layernorm-tuning": "ln-tuning",
    "olora": "lora",
    "on": "non-reentrant",
    "pissa": "lora",
    "q-galore": "q_galore_adamw8bit",
    "rslora": "lora",
    "sdpa": "flash",
    "true": "non-reentrant",
    "unsloth_checkpoint": "unsloth",
    "xformers": "efficient",
    "yes": "non-reentrant",
}
UNPLAYED = {
    "fp8": "training in fp8 (Transformer Engine, torchao) is not modelled; its weights and states are those of bf16",
}  # values that are known and refused, with what is known of them
# What people take for methods and other options say.
NO_METHODS = {
    "freeze": "--freeze-layers and a number", "galore": "--optim galore_adamw", "qat": "--qat 8da4w",
    "qdora": "--method dora --quantization nf4-dq",
}  # fmt: skip
MANY, LONG = 10, 60  # choices that are too many, or characters of them all, to be told in the option's name
# How options are spelled where the field's name with hyphens is not it. A pair with a slash turns a thing on or off.
SPELLINGS: dict[Job, dict[str, tuple[str, ...]]] = {
    TrainJob: {
        "seq_len": ("--seq", "--seq-len"),
        "optimizer": ("--optim", "--optimizer"),
        "accumulation": ("--accumulation", "--grad-accum"),
        "clip_gradients": ("--clip/--no-clip",),
        "hold_logits": ("--hold-logits/--drop-logits",),
        "steady": ("--steady/--first-step",),
        "set_to_none": ("--set-to-none/--keep-gradients",),
    },
    InferJob: {
        "seq_len": ("--context",),
        "batch": ("--concurrency",),
    },
}
HELP: dict[Job, dict[str, str]] = {
    TrainJob: {
        "batch": "Sequences in a micro-batch.",
        "seq_len": "Tokens in a sequence.",
        "precision": "Dtype of weights, gradients and states; amp: fp32 weights under autocast.",
        "attention": "Attention kernel: torch's own, transformers' eager one, or the package flash-attn 2's or 3's.",
        "kernels": "Whose fused kernels for norms, rotary embeddings and activations are put into the model.",
        "kernel_parts": "Which of them: rope,norm,glu of liger; mlp,qkv,o of axolotl, and Liger's norm,glu beside.",
        "mixers": "Which packages compute layers that keep a state: Mamba's scans, delta rules, convolutions.",
        "padding": "The batch has a padding mask, which shuts flash out; flash-attn's packages take padding out.",
        "packing": "Rows hold several sequences, told apart by position ids: a mask is built, which shuts flash out;"
        " flash-attn's packages tell them apart themselves, in batches of one row.",
        "sequences": "Sequences in a packed row, which the backward of flash-attn's packages pads one by one.",
        "padding_free": "All rows of a batch lie behind each other in one, told apart as packed sequences are.",
        "packed_by": "How they are told apart: position ids, cu_seq_lens beside them (TRL since 1.16), or a mask.",
        "target_len": "Tokens in what an encoder-decoder writes; 0: as many as it reads.",
        "lengths": "How long samples are where they are not packed: fixed, or mean and deviation, as 500±300.",
        "long_samples": "Samples longer than that are cut, or dropped from the data.",
        "dropout": "Dropout as the config says, or none.",
        "checkpointing": "Gradient checkpointing; Unsloth's keeps what layers begin with in host memory.",
        "checkpoint_every": "Checkpoint every n-th layer.",
        "checkpoint_saves": "Operations whose results checkpoints keep: attention,mm/2 as torchtitan; mm, addmm, bmm.",
        "activation_offload": "Move what is saved for the backward pass to host memory, as TRL, torchtune or torch do.",
        "compile": "torch.compile: figures stay the eager step's; what its partitioner saves less is estimated.",
        "use_cache": "Keep a key-value cache while training.",
        "keeps_cache": "Checkpointing leaves the cache on, as in GPTBigCode of transformers 4.",
        "heads_of_4_51": "As transformers 4.51: a cache of views, and heads copied for torch's attention.",
        "repeats_keys": "As Mistral, Qwen2, Phi-3 of transformers up to 4.47: key heads copied for flash-attn.",
        "denominators_apart": "As AdamW of torch 2.0: epsilon is added out of place, a copy more of what trains.",
        "hold_logits": "The caller keeps the logits until backward is done.",
        "keep_outputs": "Outputs live until the next forward pass is over, as in a plain loop.",
        "fp32_outputs": "Logits come as fp32 copies, as from accelerate.",
        "accumulation": "Micro-batches per optimizer step.",
        "clip_gradients": "Clip the gradients' norm.",
        "optimizer": "Optimizer.",
        "implementation": "How torch.optim goes through the parameters; other optimizers have one way of their own.",
        "steady": "A later step, when optimizer states exist, or the first one.",
        "set_to_none": "zero_grad frees the gradients, or fills them with zeros.",
        "zero_grad": "Where in the loop zero_grad is called.",
        "autocast": "16-bit weights under autocast too, as accelerate does.",
        "task": "What the model's head is for, whatever its config names.",
        "labels": "Classes that a classifier tells apart, 1 for a reward model; 0: as the config says, or 2.",
        "loss": "What follows the last hidden state; see docs/frameworks.md.",
        "experts": "How a mixture computes its experts; transformers 5 takes grouped_mm, 4 had modules.",
        "routing": "How tokens are spread over the experts; tells in the loops, eager and modules.",
        "embedding_32bit": "8-bit optimizers keep fp32 states for embeddings, as the HF Trainer asks.",
        "optimizer_in_backward": "Each parameter's optimizer steps, and frees the gradient, as soon as it is there.",
        "optim_rank": "Rank of GaLore's projections.",
        "update_projection": "A step that computes GaLore's projections (or SOAP's bases) anew: one in 200 (10).",
        "zero_stage": "DeepSpeed's ZeRO stage on one GPU; 0 is no DeepSpeed.",
        "zero_bucket": "DeepSpeed's reduce_bucket_size, in elements; 0: the hidden size squared, the Trainer's auto.",
        "zero_overlap": "DeepSpeed's overlap_comm: two buckets, and gradients on a stream of their own.",
        "zero_offload": "DeepSpeed's offload_optimizer: master weights and moments in the machine's memory.",
        "method": "What trains, and what PEFT adds.",
        "rank": "Rank of adapters.",
        "rank_pattern": "Ranks of single maps (PEFT's rank_pattern): q_proj=16,mlp.down_proj=4.",
        "targets": "Maps that get an adapter: names with commas, a regular expression, all-linear, or PEFT's choice.",
        "adapter_dropout": "Rate of dropout on an adapter's input.",
        "adapter_dtype": "Dtype of adapters: fp32 as in PEFT, or the base's; of the layers that train with freeze.",
        "quantization": "How the frozen base is stored, by bitsandbytes (dq: scales quantised too), GPTQ, HQQ, AWQ ...",
        "kbit_preparation": "PEFT's prepare_model_for_kbit_training: what is not quantised is kept in fp32.",
        "quantised_experts": "Stacked experts too, which bitsandbytes passes by unless told otherwise.",
        "modules_to_save": "Modules of which a copy trains beside adapters: lm_head,embed_tokens.",
        "freeze_embeddings": "Freeze the embeddings.",
        "freeze_layers": "Freeze the first so many layers.",
        "narrow_tables": "After it embedding and head are cast back, as TRL does.",
        "wide_tables": "Norms, embedding and head of a 16-bit model are fp32: axolotl without flash-attn.",
        "keeps_4bit_inputs": "As bitsandbytes up to 0.42: inputs of quantised maps live as long as the graph.",
        "model_code": "Whose model code runs: transformers', or that of a release of LitGPT.",
        "gptq_kernel": "What computes with a base that GPTQ quantised.",
        "keeps_softmax_inputs": "As torch up to 1.10: softmax keeps its input for its backward.",
        "objective": "What is minimised, as TRL or sentence-transformers does it; see docs/objectives.md.",
        "objective_code": "Whose trainer computes it: TRL's, or LLaMA-Factory's own.",
        "reference": "Where an objective's reference comes from.",
        "teacher": "The model that a student learns from, with --objective gkd; none: one like the student.",
        "teacher_dtype": "Dtype of its weights; of a reference that LLaMA-Factory loads, too.",
        "prompt_len": "Tokens at the start of each sequence that are not scored; 0: all are but the first.",
        "reward_model": "What PPO's models of reward and value are made of; none: one like the policy.",
        "rollout_batch": "Answers that PPO generates and scores at a time.",
        "mini_batches": "Parts of PPO's batch after which variables are dropped; the optimizer steps with the last.",
        "negatives": "Hard negatives of each sample, with --objective contrastive.",
        "anchor_len": "Tokens of its anchors (queries); 0: as many as --seq says of the other texts.",
        "pooling": "How a text's vector is made of its tokens'; default: a decoder's last one, an encoder's mean.",
        "normalize": "Vectors are brought to length one.",
        "mini_batch_size": "Texts that go through the model at a time, with --objective contrastive-cached.",
        "sentence_transformers": "Its release: up to 5.7 each column is a pass of its own, and masks are wider.",
        "virtual_tokens": "Vectors that prompt tuning and its like put before each sequence.",
        "block_size": "How wide OFT's blocks are; 0: as PEFT has it.",
        "images": "Images of each sequence, for a vision-language model; their tokens are among --seq.",
        "image_size": "Their height and width in pixels: 768x1024.",
        "audio": "Seconds of a recording in each sequence, for an audio-language model; its tokens are among --seq.",
        "freeze_vision": "Freeze towers and projectors; adapters go on the language model alone.",
        "active_layers": "Layers that train: at a time with LISA, the last ones with freeze.",
        "qat": "Quantisation-aware training by torchao: int8 inputs and int4 weights in groups of 32.",
        "weight_quant": "Q-GaLore's int8 weights, which train, beside --optim q_galore_adamw8bit.",
    },
    InferJob: {
        "batch": "Sequences at a time.",
        "seq_len": "Tokens that are read at once (prefill).",
        "decode": "Tokens written after them, one by one.",
        "precision": "Dtype of weights and cache.",
        "attention": "Attention kernel: torch's own, transformers' eager one, or the package flash-attn 2's or 3's.",
        "mixers": "Which packages compute layers that keep a state: Mamba's scans, delta rules, convolutions.",
        "padding": "The batch has a padding mask, which shuts flash out.",
        "cache": "Key-value cache: growing, of full length from the start, quantised (to fp8, or by quanto or HQQ to"
        " integers), or offloaded to the machine's memory.",
        "max_cache_len": "Tokens a static cache holds; 0: prefill and decode.",
        "cache_bits": "Bits of a code in a cache of quanto or HQQ.",
        "cache_group": "Numbers that share a scale there.",
        "cache_residual": "Tokens at most that are kept there as they are.",
        "cache_axis": "Axis along which numbers are grouped there.",
        "beams": "Beams that are searched: each reads the prompt, the cache is put in order after every token.",
        "candidates": "Tokens of the prompt, or of an assistant, that are tried with each token.",
        "assistant": "A model, known by name, that writes candidates (20 of them unless --candidates says otherwise).",
        "logits_to_keep": "Tokens whose logits are kept, from the last; 0: all.",
        "experts": "How a mixture computes its experts; transformers 5 takes grouped_mm, 4 had modules.",
        "routing": "How tokens are spread over the experts; tells in the loops, eager and modules.",
        "quantization": "How the weights are stored, by bitsandbytes (dq: scales quantised too), GPTQ, HQQ, AWQ ...",
        "gptq_kernel": "What computes with weights that GPTQ quantised.",
        "compute_fp32": "bitsandbytes' 4-bit maps compute in fp32, as they do unless told otherwise.",
        "device_map": "Modules that do not fit wait in the machine's memory, as transformers spreads them on one GPU.",
        "max_memory": "Memory for modules there: 20GiB; else what the GPU has, less a tenth with auto.",
        "offload": "Modules that wait in the machine's memory: model.layers.24-31,lm_head.",
        "images": "Images of each sequence, for a vision-language model; their tokens are among --context.",
        "image_size": "Their height and width in pixels: 768x1024.",
        "audio": "Seconds of a recording in each sequence, for an audio-language model, among --context.",
        "release": "Whose generate(): 4.38 makes fp32 logits of every token, 4.51 repeats key heads.",
    },
}


def framework_options(command: Command) -> Command:
    """Add the program whose defaults are taken, and its config file."""
    framework = click.option(
        "--framework", metavar="NAME", help="Take the defaults of a program: trainer, trl, axolotl, litgpt ..."
    )
    config = click.option(
        "--config", metavar="FILE", help="A config file of such a program; typed options win over it."
    )
    return framework(config(command))


def train_options(command: Command) -> Command:
    """Add an option for every field of TrainJob."""
    return _add(command, [_option(field, _spellings(TrainJob, field.name), TrainJob) for field in fields(TrainJob)])


def infer_options(command: Command) -> Command:
    """Add an option for every field of InferJob."""
    return _add(command, [_option(field, _spellings(InferJob, field.name), InferJob) for field in fields(InferJob)])


def either_options(command: Command) -> Command:
    """Add `--infer` and the options of both kinds; what both have is one option under both spellings."""
    training = {field.name: field for field in fields(TrainJob)}
    shared = [field.name for field in fields(InferJob) if field.name in training]
    made = [click.option("--infer", is_flag=True, help="A prefill and decoding instead of a training step.")]
    for name, field in training.items():
        spellings = _spellings(TrainJob, name)
        if name in shared:
            spellings = tuple(dict.fromkeys((*spellings, *_spellings(InferJob, name))))
        made.append(_option(field, spellings, TrainJob))
    made += [
        _option(field, _spellings(InferJob, field.name), InferJob, "With --infer: ")
        for field in fields(InferJob)
        if field.name not in training
    ]
    return _add(command, made)


def train_job(values: Mapping[str, Any]) -> TrainJob:
    """Return the job that parsed options describe; other values are left alone.

    What --method qlora stands for gives way to what was typed; what goes with it is taken where nothing was.
    """
    found = {field.name: values[field.name] for field in fields(TrainJob)}
    taken = {name: default.value for name, default in _beside_method(values).items()}
    return TrainJob(**given_way({**found, **taken}, {str(option.name) for option in given()} & set(found)))


def beside(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in words what was taken because of the method alone, without a framework; called as train_job."""
    return tuple(f"peft: {name}={each.value}: {each.why}" for name, each in _beside_method(values).items())


def _beside_method(values: Mapping[str, Any]) -> Defaults:
    """Return what goes with a method as PEFT has it, where nothing else was typed."""
    if values["method"] != "qlora" or values["model_code"] != "transformers":
        return {}
    typed = {option.name for option in given()}
    return {name: each for name, each in prepared(Versions(), values["precision"]).items() if name not in typed}


def infer_job(values: Mapping[str, Any]) -> InferJob:
    """Return the job that parsed options describe; other values are left alone."""
    return InferJob(**{field.name: values[field.name] for field in fields(InferJob)})


def check_kind(values: Mapping[str, Any]) -> None:
    """Refuse an option that the other kind of job has; raises UsageError."""
    kind: Job = InferJob if values["infer"] else TrainJob
    mine, all_of_them = ({field.name for each in kinds for field in fields(each)} for kinds in ((kind,), SPELLINGS))
    for option in given():
        if option.name in all_of_them - mine:
            about = "inference" if values["infer"] else "training"
            fix = "Leave it out, or leave out --infer." if values["infer"] else "Add --infer, or leave it out."
            raise UsageError(f"{option.opts[0]} says nothing about {about}.", fix)


MOST_DIGITS = 100  # that are looked at; jobs say themselves what is too large


class Amount(click.types.IntParamType):
    """A whole number, as 8192 or 8k."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        from oomph.units import parse_amount

        text = str(value).strip()
        if len(text) <= MOST_DIGITS and text.removeprefix("-").isdecimal():
            return int(text)
        try:
            return parse_amount(text)
        except UsageError as error:
            self.fail(str(error), param, ctx)


SAME = {"quantized": "quanto"}  # what transformers calls the cache that its default backend quantises


class Names(click.Choice[str]):
    """A choice that answers a slip of the keyboard with what was probably meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return one of the choices; case and signs between words do not count."""
        value = _known(str(value), self.choices)
        if value not in self.choices:
            if value in REFUSED and "adamw" in self.choices:
                self.fail(f"{value} is not modelled: {REFUSED[value]}.", param, ctx)
            if value in UNPLAYED:
                self.fail(f"{value}: {UNPLAYED[value]}.", param, ctx)
            hint = _hint(value, self.choices) or "Choose one of " + ", ".join(self.choices)
            self.fail(f"{value[:100]!r} is none. {hint}", param, ctx)
        return super().convert(value, param, ctx)


def _known(value: str, choices: Sequence[str]) -> str:
    """Return the choice of the same letters and digits, or what config files of other programs mean by a value."""
    from oomph.runtimes.optimizer_keys import OPTIMIZERS

    for name in (value, SAME.get(value, ""), str(OPTIMIZERS.get(value, {}).get("optimizer", ""))):
        if name in choices:
            return name
    alike = [one for one in choices if letters(one) == letters(value)]
    return alike[0] if len(alike) == 1 else value


def _hint(value: str, choices: Sequence[str]) -> str:
    """Return what was probably meant, in a sentence; "" if nobody can tell."""
    said = letters(value)
    meant = next((ours for theirs, ours in VALUES.items() if letters(theirs) == said and ours in choices), None)
    if meant is not None:
        return f"Did you mean {meant}?"
    if said in NO_METHODS and "lora" in choices:
        return f"Say {NO_METHODS[said]}."
    return close_matches(value[:100], choices)


def within_context(job: Any, context: int | None) -> Any:
    """Return the job with no more tokens than a model is made for, unless their number was typed."""
    if context is None or job.seq_len <= context or any(option.name == "seq_len" for option in given()):
        return job
    return replace(job, seq_len=context)


def given() -> list[click.Parameter]:
    """Return the options of the running command that were typed."""
    context = click.get_current_context()
    return [
        option
        for option in context.command.params
        if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]


def in_vain(job: TrainJob | InferJob) -> tuple[str, ...]:
    """Return sentences on what was typed and changes nothing in this job; called while the command runs."""
    idle, kind = idle_inputs(job), type(job)
    typed = [option.name for option in given() if option.name in idle]
    plain = {field.name: field.default for field in fields(kind)}
    return tuple(
        f"{spelled(kind, name, getattr(job, name))} changes nothing in this job."
        for name in typed
        if name and getattr(job, name) != plain[name]
    )


def spelled(kind: Job, name: str, value: Any) -> str:
    """Return how a field's value is typed.

    >>> spelled(TrainJob, "seq_len", 512), spelled(TrainJob, "hold_logits", False), spelled(TrainJob, "packing", True)
    ('--seq 512', '--drop-logits', '--packing')
    """
    first = _spellings(kind, name)[0]
    if _type(kind, name) is not bool:
        return f"{first} {value}"
    on, off = first.split("/")
    return on if value else off


def _add(command: Command, options: list[Callable[[Any], Any]]) -> Command:
    for option in reversed(options):  # the last decorator's option comes first
        command = option(command)
    return command


def _spellings(kind: Job, name: str) -> tuple[str, ...]:
    if name in SPELLINGS[kind]:
        return SPELLINGS[kind][name]
    words = name.replace("_", "-")
    return (f"--{words}/--no-{words}" if _type(kind, name) is bool else f"--{words}",)


def _type(kind: Any, name: str) -> Any:
    return field_types(kind)[name]


def _option(field: Field[Any], spellings: tuple[str, ...], kind: Job, before: str = "") -> Callable[[Any], Any]:
    """Return the option of a field: a choice for a Literal, a switch for a bool, else a number."""
    hint = _type(kind, field.name)
    choices = get_args(hint)
    assert field.default is not MISSING  # every input of a job has a default that is printed
    words = before + HELP[kind][field.name]
    if hint is bool:
        return click.option(*spellings, field.name, default=field.default, show_default=True, help=words)
    what: Any = Names(choices) if choices else Amount() if hint is int else hint
    more: dict[str, Any] = {}
    if len(choices) > MANY or len("|".join(choices)) > LONG:
        more["metavar"], words = "NAME", f"{words} One of: {', '.join(choices)}."
    return click.option(*spellings, field.name, type=what, default=field.default, show_default=True, help=words, **more)
