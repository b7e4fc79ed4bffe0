"""What keys of config files say of batches: rows that are packed, flattened or padded, and the kernel that attends.

Each framework has a collator of its own. What it hands to a model (position ids, where sequences begin, a mask) decides
what transformers makes of it: see docs/attention.md.
"""

from __future__ import annotations

from typing import Any

from oomph.errors import ConfigError, UnsupportedError
from oomph.job_words import FLASH_ATTN, FLASH_ATTN_NAMES
from oomph.runtimes.said import Said

ATTENTION: dict[str, str] = {
    **FLASH_ATTN_NAMES, **{name: name for name in FLASH_ATTN},
    "sdpa": "flash", "auto": "flash", "eager": "eager", "disabled": "eager",
}  # fmt: skip
# axolotl's words of old, the first that is on wins (utils/schemas/enums.py, LEGACY_ATTN_FLAG_TO_IMPL).
AXOLOTL_SWITCHES = {
    "xformers_attention": "xformers",
    "sage_attention": "sage",
    "flex_attention": "flex_attention",
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
}
AXOLOTL = (
    *AXOLOTL_SWITCHES, "attn_implementation", "sample_packing", "batch_flattening", "pad_to_sequence_len",
    "multipack_real_batches", "sdpa_varlen",
)  # fmt: skip
PREFERENCES = ("dpo", "kto", "rm")  # stages of LLaMA-Factory
BEST_FIT = ("bfd", "bfd_split", "bfd-requeue", "ffd")  # which TRL lays out without padding; ffd was bfd's name in 0.19
STRATEGIES = {**dict.fromkeys(BEST_FIT, True), "wrapped": False}


def attention(said: Said, key: str) -> dict[str, Any]:
    """Read the attention's implementation; sdpa takes flash where there is no mask."""
    return {"attention": said.one_of(key, ATTENTION)}


def of_trl(said: Said, key: str) -> dict[str, Any]:
    """Read `packing`, `packing_strategy` and `padding_free` of an SFTConfig, all at once.

    Best-fit packing makes one row of a batch, and so does padding_free, of rows packed or not; since 1.16 cu_seq_lens
    come along. "wrapped" rows are cut out of one text: nothing tells their parts apart. A DPOConfig's padding_free has
    no effect since 1.0. Source: trl 1.16, trainer/sft_trainer.py, dpo_trainer.py; data_utils.py, _pack_wrapped.
    """
    if said.values.get("loss_type") in ("sigmoid", "ipo"):
        return {}
    strategy = "bfd" if said.values.get("packing_strategy") is None else said.one_of("packing_strategy", _SAME)
    packing = said.switch("packing") and STRATEGIES[strategy]
    if not (packing or said.switch("padding_free")):
        return {}
    return {"packing": packing, "padding_free": True, "packed_by": "lengths"}


_SAME = {name: name for name in STRATEGIES}


def of_axolotl(said: Said, key: str) -> dict[str, Any]:
    """Read axolotl's attention, `sample_packing`, `batch_flattening` and `pad_to_sequence_len`, all at once.

    With flash-attn a packed batch is one row of micro_batch_size times sequence_len tokens, told apart by position ids
    alone; with torch's or the eager kernel, or multipack_real_batches, it has so many rows. Without any word of
    attention the mask stays, in which padding is all that is told apart. Source: axolotl 0.19, core/builders/causal.py,
    core/trainers/base.py, utils/schemas/config.py and validation.py.
    """
    kernel = _axolotl_kernel(said)
    found: dict[str, Any] = {} if kernel is None else {"attention": ATTENTION[kernel]}
    flash = found.get("attention") in FLASH_ATTN
    if not said.switch("sample_packing"):
        if _flattens(said, flash):
            return {**found, "padding_free": True}
        return {**found, "padding": True} if said.switch("pad_to_sequence_len") else found
    if kernel is None:
        return {"padding": True}
    if kernel == "sdpa" and said.values.get("sdpa_varlen") is not False:
        raise UnsupportedError(
            f"{said.where}: sample_packing with sdpa takes torch's varlen_attn, which is not modelled.",
            "Take flash_attention, or sdpa_varlen: false.",
        )
    real = said.values.get("multipack_real_batches")
    rows = not flash if real is None else said.switch("multipack_real_batches")
    return {**found, "packing": True, "padding_free": not rows}


def _axolotl_kernel(said: Said) -> str | None:
    """Return the attention's implementation in transformers' words, None where nothing is said of it."""
    switch = next((name for name in AXOLOTL_SWITCHES if said.values.get(name) is not None and said.switch(name)), None)
    if switch is not None:
        asked = Said(said.where, {switch: AXOLOTL_SWITCHES[switch]})
        return AXOLOTL_SWITCHES[switch] if asked.one_of(switch, ATTENTION) else None
    name = said.values.get("attn_implementation")
    if name is None:
        return None
    base = str(name).split(":", 1)[0].split("@", 1)[0].strip()  # a kernel of the hub, its revision and function
    Said(said.where, {"attn_implementation": base}).one_of("attn_implementation", ATTENTION)
    return base


def _flattens(said: Said, flash: bool) -> bool:
    """Tell whether batches are flattened that are not packed: "auto" where flash-attn has more than one sample."""
    if said.values.get("batch_flattening") == "auto":
        return flash and said.values.get("micro_batch_size") != 1
    return said.switch("batch_flattening")


def of_factory(said: Said, key: str) -> dict[str, Any]:
    """Read LLaMA-Factory's `packing` and `neat_packing`, both at once; a row is full of `cutoff_len` tokens either way.

    neat_packing tells sequences apart by position ids for flash-attn, which it gives one row alone, and for others by a
    mask that its collator makes. packing has a mask without holes; flash-attn, given one row, finds the position ids
    beside it, in more rows nobody does. Pairs, and answers one by one, are never packed. Source: LLaMA-Factory 0.9.5,
    data/collator.py, data/processor/supervised.py; hparams/parser.py, which refuses neat_packing for them.
    """
    if said.values.get("stage") in PREFERENCES:
        if said.switch("neat_packing"):
            problem = f"{said.where}: neat_packing is of stage sft alone."
            raise ConfigError(problem, "Leave it out, as LLaMA-Factory asks.")
        return {}
    flash = ATTENTION.get(str(said.values.get("flash_attn"))) in FLASH_ATTN
    one = said.values.get("per_device_train_batch_size", 1) == 1
    if said.switch("neat_packing"):
        if flash and not one:
            raise ConfigError(
                f"{said.where}: neat_packing with flash-attn takes one row at a time.",
                "LLaMA-Factory asks for per_device_train_batch_size: 1.",
            )
        return {"packing": True, "packed_by": "positions" if flash else "mask"}
    return {"packing": True} if said.switch("packing") and flash and one else {}


def of_torchtune(said: Said, key: str) -> dict[str, Any]:
    """Read torchtune's `dataset.packed`: flex attention takes tables of blocks for a mask and saves what flash does.

    Source: torchtune 0.6.1, modules/attention_utils.py, packed_block_causal_mask.
    """
    said.switch(key)
    return {}
