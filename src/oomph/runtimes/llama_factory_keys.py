"""What LLaMA-Factory's arguments say of dtypes, of the stage, of what trains and of checkpoints.

Source: LLaMA-Factory 0.9.5, src/llamafactory/hparams, model/adapter.py (init_adapter: what trains is cast to fp32
unless `pure_bf16`), model/model_utils/checkpointing.py, train/*/workflow.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.errors import UnsupportedError
from oomph.methods.oft import BLOCK_SIZE
from oomph.runtimes.base_keys import BITSANDBYTES, stored
from oomph.runtimes.said import Reader, Said, shown
from oomph.runtimes.trainer import mixed

PRETRAINING, FINE_TUNING = "pt", "sft"
OBJECTIVES = {"kto": "kto", "rm": "reward"}  # by stage
PAIRS = {"sigmoid": "dpo", "hinge": "dpo", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo"}  # by pref_loss
CHECKPOINTING = ("disable_gradient_checkpointing", "use_reentrant_gc", "use_unsloth_gc", "gradient_checkpointing")
METHODS = {"lora": "lora", "full": "full", "freeze": "freeze", "oft": "oft"}
LAST_LAYERS = 2  # freeze_trainable_layers
ONLY_FIRST = 10_000  # every so manieth layer is checkpointed: the first one, of as many as there are
VOCABULARY = ("resize_vocab", "add_tokens", "add_special_tokens", "new_special_tokens_config")
LOSSES = {"use_dft_loss": "dft", "use_eaft_loss": "eaft", "use_asft_loss": "asft"}
EIGHT = 8  # bits of bitsandbytes' int8
HQQ = (8, 4, 3, 2, 1)  # bits of HQQ's that are played
_MEGATRON = "Megatron's own code runs then"
# What moves memory and is not modelled, with why.
REFUSED: dict[str, str] = {
    "use_llama_pro": "blocks that are added",
    "freeze_extra_modules": "parts that train beside layers",
    "freeze_language_model": "towers that train alone",
    "module_dropout": "dropout of OFT's blocks",
    "oft_rank": "OFT with a number of blocks: say oft_block_size",
    "mixture_of_depths": "layers that pass tokens by",
    "shift_attn": "attention in shifted groups",
    "ld_alpha": "answers cut to one length",
    "ref_model": "a reference that is another model",
    "ref_model_adapters": "a reference with adapters of its own",
    "ref_model_quantization_bit": "a quantised reference",
    "fp8": "products in fp8",
    "fp8_enable_fsdp_float8_all_gather": "products in fp8",
    "use_kt": "KTransformers' experts in host memory",
    "use_v1_kernels": "fused kernels of its v1, most of them for Ascend NPUs",
    **dict.fromkeys(("use_mca", "use_megatron_bridge", "use_distributed_optimizer", "mixed_precision"), _MEGATRON),
    "use_hyper_parallel": "HyperParallel's own code runs then",
    "do_predict": "it generates, and trains nothing",
    "predict_with_generate": "it generates between steps",
    "label_smoothing_factor": "its loss takes log-probabilities of all logits once more",
}


def method(said: Said, key: str) -> dict[str, Any]:
    """Read `finetuning_type`: in full fine-tuning weights are made fp32, which autocast then computes from."""
    found: dict[str, Any] = {"method": said.one_of(key, METHODS)}
    if found["method"] == "freeze":
        return {**found, **_last_layers(said)}
    if found["method"] == "oft":
        size = said.whole("oft_block_size") if said.values.get("oft_block_size") is not None else BLOCK_SIZE
        return {**found, "block_size": size}
    return {**found, "precision": "fp32"} if _made_wide(said) else found


def _last_layers(said: Said) -> dict[str, Any]:
    """Read how many of the last layers train; the first ones, or parts of layers, are not modelled."""
    layers = said.values.get("freeze_trainable_layers", LAST_LAYERS)
    if isinstance(layers, int) and layers < 0:
        raise UnsupportedError(
            f"{said.where}: freeze_trainable_layers {layers} is not modelled: the first layers.", "Give how many last."
        )
    modules = said.values.get("freeze_trainable_modules", "all")
    if modules != "all":
        raise UnsupportedError(
            f"{said.where}: freeze_trainable_modules {shown(modules)} is not modelled.", "oomph trains whole layers."
        )
    given = Said(said.where, {"freeze_trainable_layers": layers})
    return {"active_layers": given.whole("freeze_trainable_layers")}


def _made_wide(said: Said) -> bool:
    """Tell whether all weights are cast to fp32: in full fine-tuning, unless told otherwise or with BAdam."""
    whole = said.values.get("finetuning_type") == "full"
    return whole and not said.switch("pure_bf16") and not said.switch("use_badam")


def under_autocast(dtype: str) -> Reader:
    """Return the reader of `bf16: true` or `fp16: true`, which goes with weights in fp32 if these train."""

    def read(said: Said, key: str) -> dict[str, Any]:
        return mixed(dtype, "fp32" if _made_wide(said) else dtype) if said.switch(key) else {}

    return read


def pure(said: Said, key: str) -> dict[str, Any]:
    """Read `pure_bf16`: weights, adapters and states in bf16, without autocast."""
    if not said.switch(key):
        return {}
    return {"precision": "bf16", "autocast": False, "fp32_outputs": False, "adapter_dtype": "base"}


def stage(said: Said, key: str) -> dict[str, Any]:
    """Read the stage: pre-training is fine-tuning on full rows; preferences have trainers of LLaMA-Factory's own."""
    value = said.values[key]
    if value == "ppo":
        raise UnsupportedError(
            f"{said.where}: {key} ppo is not modelled: LLaMA-Factory builds on the PPOTrainer of TRL 0.8 and 0.9.",
            "Near it: oomph train MODEL --framework trl --objective ppo, with the options typed.",
        )
    if value == "dpo":
        loss = "dpo" if said.values.get("pref_loss") is None else said.one_of("pref_loss", PAIRS)
        return {"objective": loss}
    by_stage: dict[str, dict[str, Any]] = {name: {"objective": each} for name, each in OBJECTIVES.items()}
    return dict(said.one_of(key, {FINE_TUNING: {}, PRETRAINING: {}, **by_stage}))


def own_loss(said: Said, key: str) -> dict[str, Any]:
    """Read the losses of its own for answers, of stage sft alone: the first that is on wins, as in its trainer."""
    name = next((name for name in LOSSES if said.values.get(name) is not None and said.switch(name)), None)
    if name is None or said.values.get("stage", FINE_TUNING) != FINE_TUNING:
        return {}
    return {"objective": LOSSES[name]}


def checkpointing(said: Said, key: str) -> dict[str, Any]:
    """Read the ways of checkpointing, all at once: the reentrant one unless told otherwise.

    The Trainer's own `gradient_checkpointing` switches it on once more, by the same function, with its own arguments.
    BAdam's first layer alone is checkpointed: in the others nothing trains.
    """
    if said.switch("gradient_checkpointing"):
        options = said.values.get("gradient_checkpointing_kwargs") or {}
        reentrant = options.get("use_reentrant", True) if isinstance(options, Mapping) else True
        found = "reentrant" if reentrant else "non-reentrant"
    elif said.switch("disable_gradient_checkpointing"):
        return {"checkpointing": "none"}
    elif said.switch("use_unsloth_gc"):
        found = "unsloth"
    else:
        usual = said.values.get("use_reentrant_gc") is None or said.switch("use_reentrant_gc")
        found = "reentrant" if usual else "non-reentrant"
    return {"checkpointing": found}


def badam(said: Said, key: str) -> dict[str, Any]:
    """Read BAdam: weights stay in 16 bits, and of the layers only the one that trains is checkpointed.

    Source: train/trainer_utils.py, _create_badam_optimizer; model/model_utils/checkpointing.py.
    """
    if not said.switch(key):
        return {}
    if said.values.get("badam_mode", "layer") != "layer":
        raise UnsupportedError(f"{said.where}: badam_mode other than layer is not modelled.", "Take layer.")
    return {"method": "badam", "optimizer": "adamw-master", "checkpoint_every": ONLY_FIRST}


def upcast_logits(said: Said, key: str) -> dict[str, Any]:
    """Read the hook that makes a head's logits fp32: preferences have such logits in any case, Liger calls no head."""
    of_labels = said.values.get("stage", FINE_TUNING) in (FINE_TUNING, PRETRAINING) and not own_loss(said, key)
    if not said.switch(key) or said.switch("enable_liger_kernel") or _made_wide(said) or not of_labels:
        return {}
    return {"loss": "hf-fp32"}


def liger(said: Said, key: str) -> dict[str, Any]:
    """Read the switch of Liger's kernels, whose loss goes with labels alone.

    Source: model/model_utils/liger_kernel.py, require_logits.
    """
    if not said.switch(key):
        return {}
    of_labels = said.values.get("stage", FINE_TUNING) in (FINE_TUNING, PRETRAINING)
    if of_labels and own_loss(said, key):
        raise UnsupportedError(
            f"{said.where}: {key} beside a loss of LLaMA-Factory's own is not modelled.",
            "Leave one out: Liger's loss leaves no logits, and its own loss is then Liger's.",
        )
    return {"kernels": "liger", **({"loss": "liger"} if of_labels else {})}


def projector(said: Said, key: str) -> dict[str, Any]:
    """Read whether the projector is frozen, which oomph knows as the tower is."""
    tower = said.values.get("freeze_vision_tower") is None or said.switch("freeze_vision_tower")
    if said.switch(key) != tower:
        fix = "Set freeze_vision_tower alike."
        raise UnsupportedError(f"{said.where}: {key} {said.values[key]} beside a tower that is not is refused.", fix)
    return {}


def vocabulary(said: Said, key: str) -> dict[str, Any]:
    """Read that tokens are added: beside adapters embedding and head then train as copies, unless named."""
    if not said.values[key] or said.values.get("finetuning_type") not in ("lora", "oft"):
        return {}
    if said.values.get("additional_target") is None:
        raise UnsupportedError(
            f"{said.where}: {key} makes copies of embedding and head train, whose names are not read.",
            "Say which: additional_target: embed_tokens,lm_head.",
        )
    return {}


def upcast_norms(said: Said, key: str) -> dict[str, Any]:
    """Read the cast of norms to fp32: on a base of bitsandbytes what PEFT's preparation does, with tables cast back.

    That casts biases too, which stay here. In full fine-tuning norms are fp32 in any case. Source:
    model/model_utils/checkpointing.py, prepare_model_for_training.
    """
    if not said.switch(key) or _made_wide(said):
        return {}
    how = said.values.get("quantization_method") or BITSANDBYTES[0]
    if said.values.get("quantization_bit") is not None and how in BITSANDBYTES:
        return {"kbit_preparation": True, "narrow_tables": True}
    raise UnsupportedError(
        f"{said.where}: {key} is not modelled: norms in fp32 beside a frozen base in 16 bits.",
        "Leave it out, or say quantization_bit: of such a base it is read.",
    )


def bits(said: Said, key: str) -> dict[str, Any]:
    """Read `quantization_bit` by `quantization_method`; Unsloth's loader knows nf4 with quantised scales alone.

    Source: model/model_utils/quantization.py, configure_quantization; model/model_utils/unsloth.py.
    """
    how = said.values.get("quantization_method") or BITSANDBYTES[0]
    base = {"method": "oft" if said.values.get("finetuning_type") == "oft" else "lora"}
    if how == "hqq":
        return {**base, "quantization": f"hqq-{said.one_of_numbers(key, HQQ)}bit"}
    if how not in BITSANDBYTES:
        problem = f"{said.where}: quantization_method {str(how)[:40]!r} is not modelled."
        raise UnsupportedError(problem, "Take bnb or hqq, or name the base's format: --quantization.")
    if said.one_of_numbers(key, (4, 8)) == EIGHT:
        return {**base, "quantization": "int8"}
    if said.switch("use_unsloth"):
        return {**base, "quantization": "nf4-dq"}
    return {**base, "quantization": stored(said, "quantization_type", "double_quantization", True)}
