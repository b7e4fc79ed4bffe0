"""The rest of SGLang's flags: those that move no memory of a device, and those that do and are not modelled.

Source: srt/arg_groups/fields/ of sglang 0.5.23.
"""

from __future__ import annotations

_SWITCHES = """--trust-remote-code --skip-tokenizer-init --skip-server-warmup --enable-http2 --grpc-mode
    --log-requests --show-time-cost --enable-metrics --enable-mfu-metrics --enable-metrics-for-all-schedulers
    --enable-trace --enable-request-time-stats-logging --enable-cache-report --enable-response-store
    --enable-strict-thinking --allow-auto-truncate --incremental-streaming-output
    --stream-response-default-include-usage --sleep-on-idle --enable-priority-scheduling
    --disable-priority-preemption --schedule-low-priority-values-first --use-ray
    --enable-dynamic-batch-tokenizer --enable-tokenizer-batch-encode --disable-tokenizer-batch-decode
    --weight-loader-disable-mmap --weight-loader-prefetch-checkpoints --disable-outlines-disk-cache
    --constrained-json-disable-any-whitespace --enable-p2p-check --disable-fast-image-processor
    --enable-mixed-chunk --disable-chunked-prefix-cache --enable-custom-logit-processor
    --triton-attention-reduce-in-fp32 --disable-flashinfer-autotune --disable-cuda-graph-padding
    --enable-single-batch-overlap"""
_VALUES = """--host --port --tokenizer-path --tokenizer-mode --tokenizer-backend --tokenizer-worker-num
    --detokenizer-worker-num --load-format --model-loader-extra-config --revision --download-dir
    --served-model-name --chat-template --hf-chat-template-name --completion-template --file-storage-path
    --api-key --admin-api-key --reasoning-parser --tool-call-parser --tool-server --sampling-defaults
    --stream-interval --warmups --fastapi-root-path --ssl-keyfile --ssl-certfile --ssl-ca-certs
    --ssl-keyfile-password --log-level --log-level-http --log-requests-level --log-requests-format
    --crash-dump-folder --decode-log-interval --random-seed --watchdog-timeout --soft-watchdog-timeout
    --base-gpu-id --gpu-id-step --nccl-port --dist-timeout --dist-init-addr --nccl-init-addr --nnodes
    --node-rank --load-balance-method --schedule-policy --schedule-conservativeness --max-queued-requests
    --prefill-max-requests --num-continuous-decode-steps --scheduler-recv-interval --retraction-policy
    --radix-eviction-policy
    --sampling-backend --grammar-backend --fp8-gemm-runner-backend --fp4-gemm-runner-backend
    --moe-runner-backend --mm-attention-backend --preferred-sampling-params --weight-version
    --otlp-traces-endpoint --kv-events-config --weight-loader-prefetch-num-threads --default-priority-value
    --numa-node --constrained-json-whitespace-pattern --speculative-accept-threshold-single
    --speculative-accept-threshold-acc --speculative-attention-mode --linear-attn-backend --mamba-backend"""
_MANY = "--log-requests-target --bucket-time-to-first-token --bucket-inter-token-latency --bucket-e2e-request-latency"

HARMLESS = (
    frozenset(_SWITCHES.split())
    | {f"{word}=" for word in _VALUES.split()}
    | {f"{word}=+" for word in _MANY.split()}
    | {f"SGLANG_{word}=" for word in ("ALLOW_OVERWRITE_LONGER_CONTEXT_LEN", "USE_MODELSCOPE", "HOST_IP", "PORT")}
)

_LORA = "it keeps adapters on the device"
_HOST = "it moves weights to the host"
_TIER = "it keeps caches elsewhere too"
_SPLIT = "it spreads sequences over devices"
REFUSED = {
    "--enable-lora": _LORA, "--lora-paths": _LORA, "--max-loras-per-batch": _LORA, "--max-lora-rank": _LORA,
    "--cpu-offload-gb": _HOST, "--offload-group-size": _HOST, "--ple-offload-embedding": _HOST,
    "--enable-hierarchical-cache": _TIER, "--enable-hicache": _TIER, "--enable-lmcache": _TIER,
    "--enable-flexkv": _TIER, "--enable-hisparse": _TIER, "--enable-unified-memory": "it shares one buffer among pools",
    "--dcp-size": _SPLIT, "--decode-context-parallel-size": _SPLIT, "--attn-cp-size": _SPLIT,
    "--attention-context-parallel-size": _SPLIT, "--enable-kv-cache-sharding": _SPLIT,
    "--attn-dp-size": "say --dp-size with --enable-dp-attention",
    "--moe-dense-tp-size": "it copies the dense layers", "--moe-dp-size": "it copies experts",
    "--moe-a2a-backend": "its buffers are not known", "--enable-deepep-moe": "its buffers are not known",
    "--ep-num-redundant-experts": "it copies experts", "--enable-dp-lm-head": "it copies the head",
    "--enable-two-batch-overlap": "it keeps two batches", "--enable-torch-compile": "what is compiled takes memory",
    "--disaggregation-mode": "prefill and decoding apart are not known", "--enable-memory-saver": "it maps memory anew",
    "--speculative-draft-model-path": "a draft of its own is another model",
    "--speculative-draft-model": "a draft of its own is another model",
    "--prefill-only-disable-kv-cache": "it keeps no cache",
    "--enable-multimodal": "towers are taken as the config says",
    "--language-only": "it leaves towers out", "--encoder-only": "it loads towers alone",
    "--enable-symm-mem": "it takes 4 GiB at once", "--device": "only CUDA is known",
    "--enable-int8-mamba-checkpoint": "its states are of another size",
    "--enable-linear-replayssm": "it keeps a ring of states",
    "--mamba-radix-cache-strategy": "how many states a request takes is not known then",
    "--cuda-graph-config": "name its parts by their own flags", "--cuda-graph-bs": "say --cuda-graph-max-bs",
    "--kt-weight-path": "its experts are on the host", "--json-model-override-args": "change the config instead",
}  # fmt: skip
