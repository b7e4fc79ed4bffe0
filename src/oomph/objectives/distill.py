"""Distillation on what the student wrote: the reverse KL divergence from a teacher, in tiles of both their logits.

Both models run to their last hidden states; of those of completions, tiles are multiplied with the heads. On one GPU
nobody casts: TRL puts its loss in the place of the model's forward, which accelerate had wrapped in autocast. How
completions come about is not part of the step. Source: trl 1.16, trainer/distillation_trainer.py, _compute_loss.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.objectives.passes import Passes, item
from oomph.ops.chunked_divergence import chunked_divergence
from oomph.ops.elementwise import result
from oomph.ops.fused_head import take_where
from oomph.ops.scores import compared, count
from oomph.programs import program_of
from oomph.tape.autograd import like
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size
from oomph.tape.sym import Sym


def inputs(passes: Passes) -> Shapes:
    """Return a batch: prompts, completions, a mask of each, and the number of tokens that count."""
    job = passes.job
    prompt, completion = (((job.batch, each), "int64") for each in (job.prompt_len, job.seq_len - job.prompt_len))
    return {
        **dict.fromkeys(("prompt_ids", "prompt_mask"), prompt),
        **dict.fromkeys(("completion_ids", "completion_mask"), completion),
        "num_items_in_batch": ((), "int64"),
    }


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror DistillationTrainer.compute_loss with its local variables."""
    clamped = like(inputs["num_items_in_batch"], "fp32", "clamp")
    num_items_in_batch = like(clamped, "fp32", "div")
    del clamped
    loss, entropy_sum, num_valid_tokens = _loss(passes, inputs, num_items_in_batch)
    num_valid_tokens = count(num_valid_tokens)
    entropy_sum = count(entropy_sum)
    item(compared("gt", num_valid_tokens))
    item(result("div", (), "fp32", entropy_sum))
    del entropy_sum, num_valid_tokens
    return loss, None


def _loss(passes: Passes, inputs: dict[str, Sym], num_items_in_batch: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror _compute_loss: the loss, the sum of entropies and how many tokens count."""
    input_ids = ops.cat((inputs["prompt_ids"], inputs["completion_ids"]), 1)
    attention_mask = ops.cat((inputs["prompt_mask"], inputs["completion_mask"]), 1)
    logits_to_keep = inputs["completion_ids"].shape[1]
    checkpointing = Checkpointing.of(passes.job)
    student = _last_hidden_state(passes, passes.policy, input_ids, attention_mask, logits_to_keep, checkpointing)
    if passes.reference is None:
        raise AssertionError("a student has a teacher")
    with passes.tape.no_grad(), passes.named("reference"):
        teacher = _last_hidden_state(
            passes, passes.reference, input_ids, attention_mask, logits_to_keep, Checkpointing()
        )
    passes.tape.recorder.mark("objective")
    passes.tape.scope = "objective"
    heads = [_head(each) for each in (passes.policy, passes.reference)]
    found = _divergence([student, teacher], heads, inputs["completion_mask"], num_items_in_batch)
    del input_ids, attention_mask, student, teacher
    return found


def _last_hidden_state(
    passes: Passes, bound: Bound, input_ids: Sym, attention_mask: Sym, kept: Size, checkpointing: Checkpointing
) -> Sym:
    """Mirror _get_last_hidden_state: the states [B, K, H] that the tokens of completions are told by."""
    other = passes.model.teacher if bound is passes.reference else None
    model, kernel, length = other or passes.model, passes.tape.kernel, input_ids.shape[1]
    program: Any = program_of(model)
    if not hasattr(program, "backbone"):
        fix = "Take --objective gkd, or a decoder like Llama or GPT-NeoX."
        raise UnsupportedError(f"oomph cannot play distill with {model.model_type} yet.", fix)
    passes.tape.scope = ""
    last_hidden_state: Sym = program.backbone(
        bound, input_ids, model.decoder_type, attention_mask, None, False, checkpointing
    )[0]
    passes.tape.kernel = kernel
    last_hidden_state = ops.slice_axis(last_hidden_state, 1, 0, length - 1)
    return ops.slice_axis(last_hidden_state, 1, length - 1 - kept, length - 1)


def _head(bound: Bound) -> Sym:
    """Return the weight of a model's language head. Raises UnsupportedError for one with a bias or an adapter."""
    found: Sym
    if any("base_layer" in bound[name].parts for name in ("lm_head", "embed_out") if name in bound.parts):
        raise UnsupportedError("oomph cannot play distill with an adapter on the head yet.", "Take --objective gkd.")
    if "lm_head" in bound.parts:
        weight, table, bias = bound.lm_head.parts["weight"], bound.model.embed_tokens, bound.lm_head.parts["bias"]
        found = table.weight if weight is None else weight
    else:
        weight, bias = bound.embed_out.parts["weight"], bound.embed_out.parts["bias"]
        found = bound.gpt_neox.embed_in.weight if weight is None else weight
    if bias is not None:
        raise UnsupportedError("oomph cannot play distill with a head with a bias yet.", "Take --objective gkd.")
    return found


def _divergence(
    hidden: list[Sym], weights: list[Sym], completion_mask: Sym, num_items_in_batch: Sym
) -> tuple[Sym, Sym, Sym]:
    """Mirror _chunked_divergence_loss on the hidden states of student and teacher, which it is handed as a list."""
    batch, length = completion_mask.shape
    tokens = batch * length
    valid = compared("ne", ops.view(completion_mask, (tokens,)))
    n_valid = count(valid)
    rows = [ops.view(ops.contiguous(each), (tokens, each.shape[2])) for each in hidden]
    picked = [take_where(each, valid, tokens) for each in rows]
    rows.pop()
    rows.pop()
    per_token_divergence, per_token_entropy = chunked_divergence(picked[0], weights[0], picked[1], weights[1])
    loss: Any = ops.total(per_token_divergence)
    entropy_sum = count(per_token_entropy)
    loss = ops.divided(loss, num_items_in_batch)
    del per_token_divergence, per_token_entropy, picked, valid
    return loss, entropy_sum, n_valid
