"""What no job of an objective can be: inputs that its trainer does not go with, or that are not played with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oomph.errors import UsageError
from oomph.job_words import AROUND, COMPLETING, FLASH_ATTN, PARTS, RANKED
from oomph.objectives import KINDS as OBJECTIVES
from oomph.objectives import OF_FACTORY, OF_FACTORY_ALONE, kind_of
from oomph.optimizer_names import KINDS

if TYPE_CHECKING:
    from oomph.job import TrainJob

NEWEST = "6"  # release of sentence-transformers
UNPLAYED = ("bitfit", "ln-tuning", "badam", "lisa")  # methods
MINI_BATCH_SIZE = 32  # of sentence-transformers' CachedMultipleNegativesRankingLoss


def check_objective(job: TrainJob) -> None:
    """Refuse what an objective beyond sft does not go with, or what is not played with one yet."""
    own = job.objective_code == "llama-factory"
    if own and job.objective not in OF_FACTORY:
        fix = "Leave --objective-code out."
        raise UsageError(f"LLaMA-Factory has no {job.objective} that oomph plays.", fix)
    if not own and job.objective in OF_FACTORY_ALONE:
        raise UsageError(f"TRL has no {job.objective}.", "Say --objective-code llama-factory.")
    if job.objective == "kto" and job.batch == 1 and not own:
        raise UsageError("KTO mismatches the answers of a batch.", "Say --batch 2 or more.")
    if job.objective in COMPLETING and not job.prompt_len:
        raise UsageError(f"{job.objective} completes a prompt.", "Say how long it is: --prompt-len.")
    name, loss = job.objective, kind_of(job).loss
    if job.loss != loss:
        fix = f"Take {loss}, or leave --loss out."
        raise UsageError(f"The loss {job.loss} says nothing about {name}.", fix)
    for wrong, what, fix in (
        (job.packs, "packed sequences", "Leave out --packing and --padding-free: its trainer pads here."),
        (job.method in UNPLAYED, job.method, "Take method full or lora."),
        (bool(job.modules_to_save), "copies of modules", "Leave out --modules-to-save."),
        (own and job.reference == "precomputed", "precomputed references", "LLaMA-Factory precomputes none."),
        (job.keep_outputs, "outputs that are kept", "Leave out --keep-outputs: its trainer drops them."),
        (job.kernels == "unsloth", "Unsloth's kernels", "Take other --kernels: its trainers are patched too."),
        (job.kernels == "axolotl", "axolotl's kernels", "Say --kernels torch: there they stay off by themselves."),
        (job.checkpointing == "unsloth", "Unsloth's checkpointing", "Take another way of --checkpointing."),
        (job.use_cache, "a cache", "Leave out --use-cache: its trainer switches it off."),
        (job.checkpoint_every > 1, "every n-th layer checkpointed", "Its trainer switches all layers on and off."),
    ):
        if wrong:
            raise UsageError(f"The objective {name} does not go with {what}.", fix)
    if job.compares_with == "adapters-off" and job.method in PARTS:
        raise UsageError(
            "Fine-tuning of the weights has no adapters to switch off.", "Say --reference loaded or precomputed."
        )
    if job.compares_with == "loaded" and job.method not in PARTS and not OBJECTIVES[job.objective].teacher:
        fix = "Say --reference adapters-off or precomputed."
        raise UsageError("A reference beside adapters is not played: TRL switches the adapters off.", fix)
    if OBJECTIVES[job.objective].judged:
        _check_judged(job)
    if OBJECTIVES[job.objective].task == "embedding":
        _check_embedding(job)
    if job.objective == "distill":
        _check_distill(job)
    if job.objective == "asft" and job.compares_with != "loaded":
        raise UsageError("LLaMA-Factory's ASFT has no reference beside adapters, and fails.", "Take method full.")


def _check_embedding(job: TrainJob) -> None:
    """Refuse what is not played with an embedding model, and with GradCache what wants one backward pass."""
    kind = KINDS.get(job.optimizer)
    for wrong, what, fix in (
        (job.method in AROUND, job.method, "Take method full or lora."),
        (job.kernels != "torch", "other kernels", "Leave out --kernels."),
        (job.attention in FLASH_ATTN, job.attention, "Say --attention flash: with the package inputs are flattened."),
        (job.activation_offload != "none", "activation offloading", "Leave it out."),
        (job.model_code != "transformers", f"the code of {job.model_code}", "Leave --model-code out."),
        (job.prompt_len > 0, "a prompt", "Leave out --prompt-len: all tokens are embedded."),
    ):
        if wrong:
            raise UsageError(f"oomph cannot play {job.objective} with {what}.", fix)
    in_backward = job.optimizer_in_backward or (kind is not None and kind.in_backward)
    if job.objective == "contrastive-cached" and (in_backward or job.zero_stage):
        fix = "Take another optimizer, without --zero-stage, or --objective contrastive."
        raise UsageError("GradCache runs backward many times before a step, which this optimizer reads as one.", fix)


def check_columns(job: TrainJob) -> None:
    """Refuse what is said of columns, vectors and mini-batches where there are none."""
    said = job.negatives or job.anchor_len or job.pooling != "default" or not job.normalize
    said = said or job.sentence_transformers != NEWEST
    if said and OBJECTIVES[job.objective].task != "embedding":
        fix = "Add --objective contrastive, or leave them out."
        what = "anchors, negatives, a pooling, lengths made one and a release of sentence-transformers"
        raise UsageError(f"Only embedding models have {what}.", fix)
    if job.mini_batch_size != MINI_BATCH_SIZE and job.objective != "contrastive-cached":
        raise UsageError("mini_batch_size is of GradCache.", "Add --objective contrastive-cached, or leave it out.")


def _check_distill(job: TrainJob) -> None:
    """Refuse what TRL's DistillationTrainer does not do on one GPU, or what is not played with it yet."""
    if job.autocast or job.fp32_outputs or job.precision.startswith("amp-"):
        fix = "Say --precision bf16 or fp32, as the weights are: TRL's loss runs in the place of what accelerate wraps."
        raise UsageError("The objective distill does not go with autocast on one GPU.", fix)
    if job.quantization != "none":
        raise UsageError("The objective distill does not go with a quantised base.", "Take method full or lora.")


def _check_judged(job: TrainJob) -> None:
    """Refuse what TRL's PPOTrainer does not do, or what is not played with it yet."""
    kind = KINDS.get(job.optimizer)
    for wrong, what, fix in (
        (job.checkpointing != "none", "checkpointing", "Leave it out: PPOTrainer never switches it on."),
        (job.activation_offload != "none", "activation offloading", "Leave it out: PPOTrainer has none."),
        (job.clip_gradients, "clipped gradients", "Leave out --clip: PPOTrainer does not clip."),
        (job.kernels != "torch", "other kernels", "Leave out --kernels: PPOTrainer puts none into its models."),
        (job.quantization != "none", "a quantised base", "Take method full or lora: TRL casts adapters there."),
        (job.method != "full" and job.method not in RANKED, job.method, "Take method full or lora."),
        (job.zero_grad != "after-step" or not job.set_to_none, "gradients that stay", "accelerate frees them."),
        (job.optimizer_in_backward, "an optimizer in backward", "Leave it out: PPOTrainer steps after it."),
        (job.zero_stage > 0, "DeepSpeed", "Leave out --zero-stage."),
        (kind is not None and (bool(kind.targets) or kind.in_backward), job.optimizer, "Take adamw, or a kin of it."),
        (job.reference == "precomputed", "a reference that is not there", "PPOTrainer asks it in every rollout."),
        (job.mixed, "lengths that differ", "Leave out --lengths: what is generated is as long as it may be."),
        (job.images > 0, "images", "Leave out --images."),
        (job.audio > 0, "a recording", "Leave out --audio."),
    ):
        if wrong:
            raise UsageError(f"The objective {job.objective} does not go with {what}.", fix)
    if job.accumulation % job.mini_batches:
        fix = f"Take a divisor of --accumulation {job.accumulation}."
        raise UsageError(f"{job.mini_batches} mini-batches do not come out even.", fix)
