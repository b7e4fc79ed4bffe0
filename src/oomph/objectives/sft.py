"""Supervised fine-tuning: one forward pass, whose loss is the model's own.

Source: transformers 5.23, trainer.py, compute_loss.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.families.heads import task_of
from oomph.job import TrainJob
from oomph.objectives.passes import Passes, autocast_dtype
from oomph.programs import program_of
from oomph.programs.attention_kernels import WITHOUT_LENGTHS
from oomph.programs.towers import images
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes
from oomph.tape.sym import Sym
from oomph.tape.tape import autocast

KEEPS_CACHE = ("nemotron_h",)  # types whose class has no `gradient_checkpointing` that would switch a cache off


def inputs(passes: Passes) -> Shapes:
    """Return a batch: ids, a mask or positions where there is padding or packing, and labels."""
    job, model = passes.job, passes.model
    rows, tokens = job.shape
    between: Shapes = {"attention_mask": ((rows, tokens), "int64")} if job.padding else {}
    if job.packs:
        between |= told_apart(job)
    of_sequences = task_of(model.objective) == "sequence-classification"
    dtype = job.weight_dtype if model.objective == "regression" else "int64"
    length = job.target_len if "target_len" in job.axes else tokens
    labels = ((rows,) if of_sequences else (rows, length), dtype)
    ids: Shapes = {"input_ids": ((rows, tokens), "int64")}
    program = program_of(model)
    read = program.reads(passes.policy, job.batch, job.weight_dtype) if hasattr(program, "reads") else ids
    made = {**read, **between, "labels": labels}
    if job.audio:
        made |= program.inputs_of_audio(passes.policy, job)
    return made | program.inputs_of_images(passes.policy, job) if job.images else made


def told_apart(job: TrainJob) -> Shapes:
    """Return what tells the sequences of a row apart: positions, and with these where each begins, or a mask.

    Source: trl 1.16, trainer/sft_trainer.py, DataCollatorForLanguageModeling; LLaMA-Factory 0.9.5, data/collator.py,
    SFTDataCollatorWith4DAttentionMask.
    """
    rows, tokens = job.shape
    made: Shapes = {"position_ids": ((rows, tokens), "int64")}
    if job.packed_by == "lengths":
        begins = ((job.sequences_in_row + 1,), "int32")
        made |= {"cu_seq_lens_q": begins, "cu_seq_lens_k": begins, "seq_idx": ((rows, tokens), "int32")}
    if job.packed_by == "mask":
        made["attention_mask"] = ((rows, 1, tokens, tokens), job.precision.removeprefix("amp-"))
    return made


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym | None, list[Any]]:
    """Play the forward pass: the loss, and the outputs that the caller holds."""
    tape, job = passes.tape, passes.job
    checkpointing = Checkpointing.of(job)
    arguments: tuple[Any, ...] = (
        passes.policy, next(iter(inputs.values())), inputs["labels"], checkpointing, passes.model.decoder_type,
    )  # fmt: skip
    # by merge_with_config_defaults, where the class says that it checkpoints
    switched_off = job.checkpointing != "none" and not (job.keeps_cache or passes.model.model_type in KEEPS_CACHE)
    options = {
        "attention_mask": inputs.get("attention_mask"),
        "position_ids": inputs.get("position_ids"),
        **({"images": images(inputs)} if job.images else {"audio": images(inputs)} if job.audio else {}),
        "use_cache": job.use_cache and not switched_off,
    }
    if passes.model.model_type not in WITHOUT_LENGTHS:
        tape.cu_seq_lens, tape.seq_idx = inputs.get("cu_seq_lens_q"), inputs.get("seq_idx")
    with autocast(tape, autocast_dtype(job)):
        loss, logits, *others = passes.forward(*arguments, **options)  # the cache, the projected images
        if job.fp32_outputs:
            in_fp32 = [ops.cast(each, "fp32") if isinstance(each, Sym) else each for each in (loss, logits, *others)]
            loss, logits, *others = in_fp32
            del in_fp32
        outputs = [*reversed(others), logits, loss]  # dies from the back, the loss first, as a ModelOutput does
        if job.loss == "mean" and logits is not None:
            loss = ops.mean_of_all(logits)
        del arguments, options, logits, others
        if job.keep_outputs and not tape.variables.keys() - {"outputs"}:  # else the program has variables of its own
            tape.variables["outputs"] = outputs
        if tape.autocast is not None:
            tape.recorder.mark("autocast exit")
    return loss, outputs
