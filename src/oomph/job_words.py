"""The words that inputs of a job take, and what goes together by name."""

from __future__ import annotations

from typing import Any, Literal, get_args

Precision = Literal[
    "bf16",  # weights, gradients and optimizer states in bf16
    "fp16",
    "fp32",
    "amp-bf16",  # fp32 weights under autocast to bf16, with its cache of cast weights
    "amp-fp16",
]
Kernel = Literal[
    "flash", "efficient", "cudnn", "math",  # torch's
    "eager",  # transformers'
    "flash_attention_2", "flash_attention_3",  # of the packages flash-attn and flash-attn-3
]  # fmt: skip
FOUR_BIT = ("nf4", "fp4")  # how names begin of what bitsandbytes quantises to 4 bits, stacked experts too
FLASH_ATTN = ("flash_attention_2", "flash_attention_3")
# What others call these packages: transformers, config files, the hub.
FLASH_ATTN_NAMES: dict[str, Kernel] = {
    "flash_attn": "flash_attention_2", "fa2": "flash_attention_2", "fa3": "flash_attention_3",
    "kernels-community/flash-attn": "flash_attention_2", "kernels-community/flash-attn2": "flash_attention_2",
    "kernels-community/flash-attn3": "flash_attention_3", "kernels-community/vllm-flash-attn3": "flash_attention_3",
}  # fmt: skip
PackedBy = Literal[
    "positions",  # position ids alone, which begin anew with every sequence
    "lengths",  # and where each begins: cu_seq_lens, as TRL's collator since 1.16
    "mask",  # position ids and a mask [batch, 1, seq_len, seq_len] of the collator's own: LLaMA-Factory's neat_packing
]
Kernels = Literal[
    "torch",  # none but torch's own
    "liger",  # Liger's norms, rotary embeddings and gated activations
    "foak",  # fms-acceleration's: Unsloth's norms and rotary embeddings
    "unsloth",  # Unsloth's own: adapters are computed with the maps beneath them
    "axolotl",  # axolotl's: adapters are computed with the maps beneath them, all else is transformers'
]
# What of a library's kernels can be had alone, in its configs and as `kernel_parts`; with axolotl's, Liger's beside.
LIGER_PARTS = ("rope", "norm", "glu")
AXOLOTL_PARTS = ("mlp", "qkv", "o")
KERNEL_PARTS: dict[str, tuple[str, ...]] = {"liger": LIGER_PARTS, "axolotl": (*AXOLOTL_PARTS, *LIGER_PARTS)}
Mixers = Literal[
    "torch",  # transformers' own code
    "fla",  # the package flash-linear-attention, for delta rules
    "causal-conv1d",  # the package of that name, for convolutions over time
    "fla+causal-conv1d",  # both
    "mamba-ssm",  # the package of that name, for the scans of Mamba 1 and 2
    "mamba-ssm+causal-conv1d",  # both, which it asks for where it trains
]
Experts = Literal[
    "grouped_mm",  # one product for all experts; what transformers takes unless told otherwise
    "eager",  # a loop over the experts that were hit
    "batched_mm",  # a copy of its expert's weights for every token
    "modules",  # transformers 4's: linear maps of each expert's own, a loop over the experts that were hit
]
Routing = Literal["balanced", "worst"]
Checkpointing = Literal[
    "none",
    "reentrant",
    "non-reentrant",
    "unsloth",  # reentrant, with what layers begin with in host memory
]
ActivationOffload = Literal[
    "none",
    "trl",  # TRL's, on a second stream: all but parameters and the head's
    "torchtune",  # the same of torchtune, for what comes before the head
    "save-on-cpu",  # torch's own, of all that is saved
]
OptimizerName = Literal[
    "adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw-amsgrad", "adam", "nadam", "radam", "adamax",
    "adadelta", "sgd", "sgd-momentum", "rmsprop", "adagrad", "adafactor-torch", "adafactor-torch-foreach", "adafactor",
    "adamw_torch_8bit", "adamw_torch_4bit", "torchao-adamw-4bit", "torchao-adamw-fp8", "adamw_8bit", "adamw_bnb_8bit",
    "adamw_bnb_32bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion_8bit", "lion_32bit", "paged_lion_8bit",
    "paged_lion_32bit", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "galore_adamw", "galore_adafactor",
    "galore_adamw_8bit", "galore_adamw_8bit_layerwise", "galore_adamw_layerwise", "q_galore_adamw8bit",
    "q_galore_adamw8bit_per_layer", "apollo_adamw", "apollo_adamw_layerwise", "apollo-mini", "torchao-cpu-offload",
    "adam-mini", "lion", "came", "lomo", "adalomo", "schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd",
    "stable_adamw", "grokadamw", "muon", "muon-llama-factory", "prodigy", "dadapt-adam", "adamw-master",
    "optimi-adamw", "soap", "shampoo", "sophia-g", "adopt", "adan", "lamb", "lars", "adagrad_bnb_8bit",
    "adagrad_bnb_32bit", "sgd_bnb_8bit", "sgd_bnb_32bit", "ademamix", "ademamix_8bit", "paged_ademamix_32bit",
    "paged_ademamix_8bit", "none",
]  # fmt: skip
Implementation = Literal["foreach", "fused", "loop"]
Loss = Literal[
    "hf",  # transformers' own, of logits in fp32
    "hf-fp32",  # the same of logits that a hook has made fp32: LLaMA-Factory's upcast_lmhead_output
    "hf-4.46",  # as it was from 4.46 to 4.49: shifted fp32 logits are one more copy
    "hf-4.45",  # up to 4.45: the model's logits are fp32, and shifted ones a copy
    "shifted",  # logits shifted in their own dtype: models with code of their own
    "mean",  # of fp32 logits, as profiling scripts take it
    "fused",  # Unsloth's kernel in transformers 4.46 to 4.49, as fms-acceleration puts it
    "fused-4.45",  # the same up to 4.45
    "fused-shifted",  # the same of logits in their own dtype
    "liger",  # Liger's fused linear cross entropy
    "liger-fms",  # the same of 2024, as fms-acceleration carries it
    "cut",  # Apple's cut cross entropy
    "torchtune",  # logits in 8 chunks, cast to fp32 chunk by chunk
    "litgpt",  # 128 tokens at a time, in the logits' own dtype
    "logits",  # none: an objective that takes log-probabilities of all logits itself
    "chunked-nll",  # TRL's, 1.13 and 1.14: 256 tokens at a time, each under a checkpoint
    "fused-head",  # TRL's, from 1.15: tiles of logits, their log-probabilities alone
    "unsloth",  # Unsloth's, of 2026: fp32 logits of a chunk or a tile, gradients in the forward pass
    "unsloth-2024",  # the same of 2024: all logits in 16 bit, the gradient over them
]
Objective = Literal[
    "sft",
    "dpo",  # pairs of answers against a reference
    "ipo",  # the same with lengths divided out and a square
    "kto",  # answers one by one, mismatched ones beside them
    "cpo",  # pairs without a reference, and the cross entropy of the chosen ones
    "simpo",  # pairs without a reference, lengths divided out
    "grpo",  # the update on completions that are there, without a KL term
    "grpo-kl",  # the same with one, and a reference in memory
    "rloo",  # with a number per completion, and a reference in memory
    "orpo",  # pairs without a reference: the odds of one against the other, and a cross entropy of the chosen ones
    "gkd",  # a teacher's distribution over all tokens: the Jensen-Shannon divergence halfway between
    "gkd-kl",  # the same as a KL divergence
    "distill",  # a teacher's distribution on what the student wrote, in tiles of logits: TRL's DistillationTrainer
    "reward",  # pairs of answers through a classifier of one label; LLaMA-Factory's: through a head of values
    "dft",  # LLaMA-Factory's: a cross entropy in which each token weighs as much as it was expected
    "eaft",  # its own too: weighed by the entropy of the 20 likeliest tokens
    "asft",  # its own too: dft, and a divergence from a reference
    "ppo",  # what was just generated, by a policy and a model of its value, beside a reference and a reward model
    "contrastive",  # anchors, positives and negatives, all of a batch against all: MultipleNegativesRankingLoss
    "contrastive-cached",  # the same with GradCache: a mini-batch through the model at a time
]
ObjectiveCode = Literal[
    "trl",  # of embedding models sentence-transformers
    "llama-factory",
]
Pooling = Literal[
    "default",  # a decoder's last token, an encoder's mean
    "mean",  # of all tokens that are no padding
    "cls",  # the first token
    "lasttoken",  # the last one that is no padding
]
EmbeddingRelease = Literal[  # of sentence-transformers
    "6",
    "5",  # 5.4 to 5.7: a pass for each column, masks as wide as states, cosines in the vectors' dtype, decoders' caches
]
Reference = Literal[
    "default",  # adapters switched off where there are any, else a second model
    "loaded",
    "adapters-off",
    "precomputed",  # log-probabilities come with the batch
]
TeacherDtype = Literal["student", "bf16", "fp16", "fp32"]
ModelCode = Literal[
    "transformers",
    "litgpt",  # since 0.5.4
    "litgpt-0.4",  # 0.4.6 to 0.5.0
    "litgpt-0.3",  # of March to May 2024
    "lit-gpt",  # of October 2023
]
Task = Literal[
    "config",  # what the head that a config's architectures name is for
    "causal-lm",
    "masked-lm",
    "sequence-classification",
    "embedding",  # the model without a head
]
ZeroGrad = Literal["after-step", "before-forward", "before-backward"]
Method = Literal[
    "full",
    "lora",
    "qlora",  # lora on an nf4 base with double quantisation, prepared as PEFT does, all linear maps
    "dora",  # lora with a magnitude for each output, the direction divided by its norm
    "lora-fa",  # lora whose A is frozen
    "ia3",  # vectors that scale keys, values and what is inside the feed-forward part
    "vera",  # lora whose A and B are the same frozen ones for all maps; vectors between them train
    "loha",  # a weight that is the elementwise product of two low-rank ones
    "lokr",  # a weight that is a Kronecker product
    "adalora",  # lora with singular values between A and B
    "oft",  # inputs rotated block by block
    "boft",  # inputs rotated by one matrix made of blocks
    "prompt-tuning",  # vectors before the embedded tokens
    "p-tuning",  # the same, made by three linear maps
    "prefix-tuning",  # keys and values before those of every layer
    "bitfit",  # biases alone
    "ln-tuning",  # copies of norms
    "badam",  # one layer at a time
    "freeze",  # the last layers, what trains in fp32: LLaMA-Factory's
    "lisa",  # a few layers at a time, and all that is no layer
    "adapter",  # LitGPT's LLaMA-Adapter
    "adapter_v2",
]
Qat = Literal["none", "8da4w"]  # int8 inputs, each token with a scale; int4 weights in groups
ZeroOffload = Literal["none", "optimizer"]
AdapterDtype = Literal["fp32", "base"]
Quantization = Literal[  # of a frozen base; the names of formats
    "none", "nf4", "nf4-dq", "fp4", "fp4-dq", "int8",
    "gptq-4bit-g128", "gptq-4bit-g64", "gptq-4bit-g32", "gptq-4bit-column",
    "gptq-8bit-g128", "gptq-8bit-g64", "gptq-8bit-g32", "gptq-8bit-column",
    "hqq-8bit", "hqq-4bit", "hqq-4bit-g128", "hqq-4bit-g32", "hqq-3bit", "hqq-2bit", "hqq-2bit-g128", "hqq-2bit-g32",
    "hqq-1bit", "awq", "awq-g64", "awq-g32", "aqlm-1x16", "aqlm-2x8",
    "torchao-int8", "torchao-fp8",
]  # fmt: skip
GptqKernel = Literal[
    "gptqmodel",  # GPTQModel, today's; a layer's unpacked weights live through its backward pass
    "triton",  # auto_gptq's second Triton kernel and fms-acceleration: unpacked anew in backward
    "cuda-old",  # auto_gptq as transformers 4 loads it with exllama off: unpacked by torch's operations
]
# Of a model that only reads and writes; kernels that compute forward alone among them.
ServedQuantization = Literal[Quantization, "fp8"]
QUANTIZATIONS: frozenset[str] = frozenset((*get_args(Quantization), "fp8"))
ServedGptqKernel = Literal[
    GptqKernel,
    "exllama",  # auto_gptq's for 4 bits, as transformers 4 loads it: one room for an unpacked weight, made at the start
]
Release = Literal[
    "5",
    "4.51",  # torch's attention gets keys and values repeated for all heads
    "4.38",  # fp32 logits of every token; tables of sines in each layer; the cache as it was beside the one that grows
]
CacheKind = Literal[
    "none",
    "dynamic",  # grows by concatenation
    "static",  # all tokens allocated at once
    "fp8",  # grows, in fp8: QuantizedCache's backend of that name
    "quanto",  # integer codes and a residual, by optimum-quanto; what transformers takes for "quantized"
    "hqq",  # the same by HQQ
    "offloaded",  # grows; layers wait in the machine's memory, one ahead of the one that attends
    "offloaded_static",  # the same of all tokens allocated at once
]
INTEGER_CACHES = ("quanto", "hqq")
STATIC_CACHES = ("static", "offloaded_static")
OFFLOADED_CACHES = ("offloaded", "offloaded_static")
KEPT_PER_BEAM = 2  # continuations that beam search keeps for each beam of a model with one token that ends sequences
COMPLETING = frozenset(
    {"grpo", "grpo-kl", "rloo", "ppo", "distill"}
)  # objectives whose answers were made from a prompt by the model itself
OF_PROMPTS = frozenset({"fused-head", "chunked-nll", "logits"})  # losses that leave out what is not scored
PARTS = frozenset({"full", "freeze"})  # methods that train what the model has: no adapters to switch off
RANKED = frozenset({"lora", "qlora", "dora", "lora-fa", "vera", "loha", "lokr", "adalora"})  # methods that have a rank
BLOCKED = frozenset({"oft", "boft"})  # that have blocks of a size
ADAPTERS = RANKED | BLOCKED | {"ia3"}  # of PEFT, beside or around maps
PROMPTED = frozenset({"prompt-tuning", "p-tuning", "prefix-tuning"})  # that put virtual tokens before a batch's
AROUND = PROMPTED | {"adalora"}  # that do something before or after the model's own forward pass
# What a method stands for, where the field has its default.
PRESETS: dict[str, dict[str, Any]] = {
    "qlora": {"quantization": "nf4-dq", "kbit_preparation": True, "targets": "all-linear"},
    "badam": {"optimizer": "adamw-master"},
}
BASES = {"qlora": "lora"}  # what such a method is with one of these otherwise
OWN_PRESETS = frozenset({"quantization"})  # those of a method that are not PEFT's
