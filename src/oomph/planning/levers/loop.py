"""What a training loop holds on to without need."""

from __future__ import annotations

from oomph.planning.lever import Lever, Price, setting

FAQ = "https://docs.pytorch.org/docs/stable/notes/faq.html"

LEVERS = (
    Lever(
        "drop the logits",
        Price.NOTHING,
        "No cost: take the loss from the model's output and let the rest go before the backward pass.",
        FAQ,
        setting(hold_logits=False),
    ),
    Lever(
        "let outputs die with their step",
        Price.NOTHING,
        "No cost: `del outputs` at the end of a step, or a function for the step, so that its graph is gone.",
        FAQ,
        setting(keep_outputs=False),
    ),
    Lever(
        "no fp32 copies of the outputs",
        Price.NOTHING,
        "No cost: the loss casts logits itself; take accelerate's wrapper off (unwrap_model, keep_fp32_wrapper=False).",
        "https://huggingface.co/docs/accelerate/package_reference/accelerator",
        setting(fp32_outputs=False),
    ),
    Lever(
        "no key-value cache",
        Price.NOTHING,
        "No cost: a cache is of use only where tokens are generated one by one; pass use_cache=False.",
        "https://huggingface.co/docs/transformers/kv_cache",
        setting(use_cache=False),
    ),
    Lever(
        "free gradients after the step",
        Price.NOTHING,
        "No cost, a little faster: zero_grad(set_to_none=True) right after the step, before the next forward pass.",
        "https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html",
        setting(set_to_none=True, zero_grad="after-step"),
    ),
)
