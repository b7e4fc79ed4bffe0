"""Record what the collators of TRL, axolotl, LLaMA-Factory and transformers hand to a model: tests/collators.json.

    pip install "trl==1.16.0" transformers datasets peft pillow
    pip download --no-deps axolotl==0.19.0 llamafactory==0.9.5     # unzip both wheels into one folder
    python scripts/record_collators.py FOLDER

Samples are of SAMPLES tokens, two rows of two samples each where rows are packed; LENGTH is what a config calls the
length of a sequence. LLaMA-Factory imports torchaudio, which nothing here needs: an empty module stands for it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import DataCollatorWithFlattening, PreTrainedTokenizerFast

LENGTH, SAMPLES = 64, (40, 24)
VERSIONS = {"axolotl": "0.19.0", "llamafactory": "0.9.5"}
Row = list[dict[str, list[int]]]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that pads."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, "<pad>")), pad_token="<pad>"
    )


def sample(length: int) -> dict[str, list[int]]:
    """Return a sample of one sequence."""
    return {"input_ids": [1] * length, "labels": [1] * length, "position_ids": list(range(length))}


def of_trl() -> dict[str, Any]:
    """Return batches of TRL: best-fit rows, padding-free ones, and "wrapped" ones."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    row = {"input_ids": [1] * LENGTH, "labels": [1] * LENGTH}
    free = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    return {
        "trl packing": free([{**row, "seq_lengths": list(SAMPLES)}] * 2),
        "trl padding_free": free([row] * 2),
        "trl wrapped": DataCollatorForLanguageModeling(pad_token_id=0)([row] * 2),
    }


def of_axolotl(folder: Path) -> dict[str, Any]:
    """Return batches of axolotl: all rows in one, as with flash-attn, and one behind the other; flattened; padded."""
    spec = importlib.util.spec_from_file_location("batching", folder / "axolotl/utils/collators/batching.py")
    assert spec is not None
    assert spec.loader is not None
    batching = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(batching)
    packed = batching.V2BatchSamplerDataCollatorForSeq2Seq(tokenizer(), padding=True, pad_to_multiple_of=LENGTH)
    plain = batching.DataCollatorForSeq2Seq(tokenizer(), padding=True, pad_to_multiple_of=LENGTH)
    masked = [{"input_ids": [1] * length, "labels": [1] * length, "attention_mask": [1] * length} for length in SAMPLES]
    return {
        "axolotl sample_packing": packed([[sample(length) for length in SAMPLES * 2]]),
        "axolotl rows": packed([[sample(length) for length in SAMPLES] for _ in range(2)]),
        "axolotl pad_to_sequence_len": plain(masked),
    }


def of_factory(folder: Path) -> dict[str, Any]:
    """Return batches of LLaMA-Factory: neat_packing for flash-attn and for others."""
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    sys.path.insert(0, str(folder))
    from llamafactory.data.collator import SFTDataCollatorWith4DAttentionMask
    from llamafactory.data.template import TEMPLATES

    def row() -> dict[str, Any]:
        masks = [at + 1 for at, length in enumerate(SAMPLES) for _ in range(length)]
        whole = {key: [one for length in SAMPLES for one in sample(length)[key]] for key in sample(1)}
        return {**whole, "attention_mask": masks, "images": None, "videos": None, "audios": None}

    def collator(kernel: str) -> Any:
        return SFTDataCollatorWith4DAttentionMask(
            tokenizer=tokenizer(), template=TEMPLATES["default"], pad_to_multiple_of=8, neat_packing=True,
            block_diag_attn=True, attn_implementation=kernel, compute_dtype=torch.bfloat16,
        )  # fmt: skip

    return {
        "llama-factory neat_packing, fa2": collator("flash_attention_2")([row()]),
        "llama-factory neat_packing": collator("sdpa")([row(), row()]),
    }


def described(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the shapes and dtypes of tensors, numbers as they are; what is None is not there."""
    return {
        name: [list(one.shape), str(one.dtype).removeprefix("torch.")] if torch.is_tensor(one) else one
        for name, one in batch.items()
        if one is not None
    }


def main(folder: Path) -> None:
    """Write the file."""
    flat = DataCollatorWithFlattening()([sample(LENGTH), sample(LENGTH)])
    batches = {"flattening": flat, **of_trl(), **of_axolotl(folder), **of_factory(folder)}
    versions = {each: version(each) for each in ("trl", "transformers")} | VERSIONS
    found = {name: described(dict(batch)) for name, batch in batches.items()}
    golden = {"recipe": "scripts/record_collators.py", "versions": versions, "batches": found}
    (Path(__file__).parents[1] / "tests/collators.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
