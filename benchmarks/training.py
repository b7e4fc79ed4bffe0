"""How long answers about training take: `oomph train`, `oomph plan` and `oomph max` for jobs that people have.

Each command runs in a process of its own with nothing kept from others; times are the processor's, start-up and
printing among them, median of three. With --save FILE they are written down, with --against FILE held against those in
it.

Run: python benchmarks/training.py [--save FILE] [--against FILE] [--runs N] [WORD ...]   (commands with all the words)
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

CODE = "from oomph.cli import main; main()"
TRAINED = (
    "llama-3.1-8b",
    "llama-3.1-8b --checkpointing non-reentrant --optim adamw_8bit",
    "llama-3.1-8b --optim paged_adamw_8bit",
    "llama-3.1-8b --implementation loop",
    "llama-3.1-8b --optim galore_adamw",
    "llama-3.1-8b --method lora --checkpointing non-reentrant",
    "llama-3.1-8b --method qlora --optim paged_adamw_8bit",
    "llama-3.1-8b --method qlora --kernels unsloth --checkpointing unsloth --loss unsloth",
    "llama-3.1-8b --method lora --objective dpo",
    "llama-3.1-8b --method lora --objective grpo --prompt-len 512",
    "llama-3.2-1b --objective ppo --prompt-len 1024",
    "qwen2.5-72b --method qlora --checkpointing non-reentrant",
    "mixtral-8x7b-v0.1 --method lora --targets q_proj,v_proj",
    "mixtral-8x7b-v0.1 --method qlora --experts modules",
    "deepseek-v3 --method lora --targets q_a_proj,o_proj",
    "llama-4-scout-17b-16e-instruct --method lora",
    "gemma-3-27b-it --method lora --targets q_proj,o_proj",
    "gpt-oss-20b --method lora --targets q_proj,o_proj",
    "mamba-codestral-7b-v0.1",
    "qwen3-next-80b-a3b-instruct --method lora --targets q_proj,o_proj",
    "qwen2.5-vl-7b-instruct --images 1 --image-size 768x1024",
    "llama-3.1-8b --method lora --lengths 500±300",
)
PLANNED = (
    "llama-3.1-8b train --gpu rtx-4090",
    "llama-3.1-8b train --method lora --objective dpo --seq 8192 --gpu rtx-4090",
    "llama-3.2-1b train --objective ppo --prompt-len 1024 --gpu h100",
    "qwen2.5-72b train --method qlora --gpu rtx-4090",
)
LARGEST = (
    "llama-3.1-8b train --method lora --checkpointing non-reentrant",
    "llama-3.2-1b train --objective grpo --prompt-len 512",
    "mixtral-8x7b-v0.1 train --method qlora --checkpointing non-reentrant",
)
COMMANDS = (
    "--help",
    "train --help",
    *(f"train {one} --gpu h100" for one in TRAINED),
    *(f"plan {one}" for one in PLANNED),
    *(f"max {one} --gpu h100" for one in LARGEST),
)


def seconds(command: str) -> float:
    """Processor time of a command in a new process that finds nothing kept."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", CODE, *command.split()], capture_output=True, env={**os.environ, "OOMPH_CACHE": ""}
    )
    if done.returncode > 1:  # 1: it does not fit
        sys.exit(f"oomph {command}: {done.stderr.decode()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("words", nargs="*")
    options.add_argument("--save", type=Path)
    options.add_argument("--against", type=Path)
    options.add_argument("--runs", type=int, default=3)
    asked = options.parse_args()
    known = json.loads(asked.against.read_text()) if asked.against else {}
    found, ratios = {}, []
    for command in COMMANDS:
        if not all(word in command.split() for word in asked.words):
            continue
        took = found[command] = statistics.median(seconds(command) for _ in range(asked.runs))
        said = ""
        if command in known:
            ratios.append(known[command] / took)
            said = f"  was {known[command]:6.2f} s: {ratios[-1]:4.1f} times as fast"
        print(f"{took:6.2f} s{said}  oomph {command}", flush=True)
    print(f"median {statistics.median(found.values()):.2f} s, {sum(found.values()):.1f} s together")
    if ratios:
        print(f"median {statistics.median(ratios):.1f} times as fast")
    if asked.save:
        asked.save.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
