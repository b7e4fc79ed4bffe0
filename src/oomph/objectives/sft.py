"""Supervised fine-tuning: one forward pass, whose loss is the model's own.

Source: transformers 5.23, trainer.py, compute_loss.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.families.heads import task_of
from oomph.objectives.passes import Passes, Shapes, autocast_dtype
from oomph.programs import program_of
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym
from oomph.tape.tape import autocast


def inputs(passes: Passes) -> Shapes:
    """Return a batch: ids, a mask or positions where there is padding or packing, and labels."""
    job, model = passes.job, passes.model
    between = ["attention_mask"] * job.padding + ["position_ids"] * job.packing
    of_sequences = task_of(model.objective) == "sequence-classification"
    dtype = job.weight_dtype if model.objective == "regression" else "int64"
    length = job.target_len if "target_len" in job.axes else job.seq_len
    labels = ((job.batch,) if of_sequences else (job.batch, length), dtype)
    ids: Shapes = {"input_ids": ((job.batch, job.seq_len), "int64")}
    program = program_of(model)
    read = program.reads(passes.policy, job) if hasattr(program, "reads") else ids
    return {**read, **dict.fromkeys(between, ((job.batch, job.seq_len), "int64")), "labels": labels}


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym | None, list[Any]]:
    """Play the forward pass: the loss, and the outputs that the caller holds."""
    tape, job = passes.tape, passes.job
    checkpointing = Checkpointing(job.checkpointing, job.checkpoint_every)
    arguments: tuple[Any, ...] = (
        passes.policy, next(iter(inputs.values())), inputs["labels"], checkpointing, passes.model.model_type,
    )  # fmt: skip
    options = {
        "attention_mask": inputs.get("attention_mask"),
        "position_ids": inputs.get("position_ids"),
        # merge_with_config_defaults switches it off
        "use_cache": job.use_cache and (job.checkpointing == "none" or job.keeps_cache),
    }
    with autocast(tape, autocast_dtype(job)):
        loss, logits, cache = passes.forward(*arguments, **options)
        if job.fp32_outputs:
            in_fp32 = loss and ops.cast(loss, "fp32"), ops.cast(logits, "fp32") if isinstance(logits, Sym) else logits
            loss, logits = in_fp32
            del in_fp32
        outputs = [cache, logits, loss]  # dies from the back, the loss first, as a ModelOutput does
        if job.loss == "mean" and logits is not None:
            loss = ops.mean_of_all(logits)
        del arguments, options, logits, cache
        if job.keep_outputs and not tape.variables.keys() - {"outputs"}:  # else the program has variables of its own
            tape.variables["outputs"] = outputs
        if tape.autocast is not None:
            tape.recorder.mark("autocast exit")
    return loss, outputs
