"""Flags of `vllm serve` that move no memory of a device, and those that do and are not modelled.

Source: vllm/engine/arg_utils.py and entrypoints/openai/cli_args.py of vLLM 0.33.0 and 0.19.0.
"""

from __future__ import annotations

_SWITCHES = """trust-remote-code disable-log-stats disable-log-requests enable-log-requests enable-auto-tool-choice
    disable-uvicorn-access-log enable-ssl-refresh return-tokens-as-token-ids disable-frontend-multiprocessing
    enable-request-id-headers enable-server-load-tracking enable-force-include-usage enable-prompt-tokens-details
    disable-fastapi-docs enable-tokenizer-info-endpoint enable-log-outputs log-error-stack
    disable-cascade-attn headless data-parallel-hybrid-lb
    data-parallel-external-lb enable-prefix-caching-metrics kv-cache-metrics cudagraph-metrics enable-mfu-metrics
    enable-logging-iteration-details use-tqdm-on-load skip-tokenizer-init disable-chunked-mm-input
    allow-credentials interleave-mm-strings exclude-tools-when-tool-choice-none fail-on-environ-validation
    enable-layerwise-nvtx-tracing ray-workers-use-nsight numa-bind aggregate-engine-logging
    long-prefill-token-threshold-adaptive scheduler-reserve-full-isl data-parallel-multi-port-external-lb
    enable-ep-weight-filter enable-flashinfer-autotune disable-nccl-for-dp-synchronization
    enable-shm-tensor-arena enable-mamba-shared-prefix-checkpoint enable-mm-embeds
    allow-deprecated-quantization jit-monitor-verbose per-request-spec-decode-metrics enable-fault-tolerance
    enable-per-request-metrics trust-request-chat-template trust-request-mm-kwargs enable-log-deltas
    enable-offline-docs enable-flash-late-interaction cohere-is-reasoning-model tokens-only enable-scale-out
    return-sampling-mask swa-bounded-replay grpc"""
_VALUES = """host port uds uvicorn-log-level api-key allowed-origins allowed-methods allowed-headers chat-template
    chat-template-content-format response-role ssl-keyfile ssl-certfile ssl-ca-certs ssl-cert-reqs root-path middleware
    tool-call-parser tool-parser-plugin log-config-file max-log-len served-model-name reasoning-parser
    reasoning-parser-plugin seed revision code-revision tokenizer tokenizer-mode tokenizer-revision download-dir
    load-format config-format hf-token generation-config override-generation-config max-logprobs
    logprobs-mode swap-space guided-decoding-backend structured-outputs-config distributed-executor-backend
    distributed-timeout-seconds nnodes node-rank master-addr master-port data-parallel-address data-parallel-rpc-port
    data-parallel-rank data-parallel-start-rank data-parallel-size-local data-parallel-backend api-server-count
    max-parallel-loading-workers model-loader-extra-config ignore-patterns safetensors-load-strategy
    scheduling-policy stream-interval prefix-caching-hash-algo kv-cache-metrics-sample show-hidden-metrics-for-version
    otlp-traces-endpoint collect-detailed-traces allowed-local-media-path allowed-media-domains media-io-kwargs
    mm-processor-cache-gb mm-processor-cache-type shutdown-timeout lora-modules lora-path log-level logging-config
    max-cpu-loras long-prefill-token-threshold max-num-partial-prefills max-long-partial-prefills
    tool-server default-chat-template-kwargs h11-max-incomplete-event-size h11-max-header-count
    renderer-num-workers max-num-queued-reqs max-num-queued-tokens
    cpu-distributed-timeout-seconds custom-histogram-buckets default-mm-loras device-ids dp-sync-interval
    expert-placement-strategy fault-tolerance-config io-processor-plugin jit-monitor-mode kv-events-config
    logits-processors max-num-active-seqs max-num-scheduled-tokens mm-hasher-algorithm
    mm-shm-cache-max-object-size-mb mm-tensor-ipc model-class-overrides numa-bind-cpus numa-bind-nodes
    prefill-schedule-interval profiler-config pt-load-map-location reasoning-config safetensors-prefetch-block-size
    safetensors-prefetch-num-threads watchdog-config watermark watermark-config weight-transfer-config
    prefix-cache-retention-interval prefix-match-unit sleep-preserve-parameter-names scheduler-cls
    tool-strict-level reasoning-effort-map sse-keep-alive-interval cohere-format
    anthropic-disabled-thinking-effort fingerprint-mode fingerprint-value grpc-port
    data-parallel-supervisor-port dp-supervisor-probe-interval-s dp-supervisor-probe-timeout-s
    dp-supervisor-probe-failure-threshold disable-access-log-for-endpoints ssl-ciphers"""
_SHORT = ("-dpa=", "-dpb=", "-dpl=", "-dpn=", "-dpp=", "-dpr=", "-n=", "-r=", "-dph", "-dpe", "-dpm")
_MANY = ("--served-model-name=+", "--lora-modules=+", "--middleware=+", "--allowed-origins=+")
_VARIABLES = """VLLM_LOGGING_LEVEL VLLM_CONFIGURE_LOGGING VLLM_API_KEY VLLM_USE_MODELSCOPE VLLM_CACHE_ROOT
    VLLM_DO_NOT_TRACK VLLM_NO_USAGE_STATS VLLM_WORKER_MULTIPROC_METHOD VLLM_HOST_IP VLLM_PORT VLLM_RPC_TIMEOUT
    VLLM_SLEEP_WHEN_IDLE VLLM_ENGINE_ITERATION_TIMEOUT_S VLLM_ALLOW_LONG_MAX_MODEL_LEN VLLM_TRACE_FUNCTION VLLM_USE_V1
    CUDA_VISIBLE_DEVICES"""

HARMLESS = frozenset({
    *(f"--{name}" for name in _SWITCHES.split()),
    *(f"--no-{name}" for name in _SWITCHES.split()),
    *(f"--{name}=" for name in _VALUES.split() if f"--{name}=+" not in _MANY),
    *_MANY,
    *_SHORT,
    *_VARIABLES.split(),
})  # fmt: skip

REFUSED = {
    "VLLM_USE_V1=0": "the engine before V1 has a cache of its own",
    "--enable-eplb": "copies of experts that are asked often",
    "--prefill-context-parallel-size": "a prompt spread over devices",
    "--mm-processor-kwargs": "how large the images of the trial step are",
    "--mm-encoder-tp-mode": "whole copies of the tower on each device",
    "--skip-mm-profiling": "a trial step without images",
    "--hf-overrides": "another config than the model's",
    "--hf-config-path": "another config than the model's",
    "--disable-custom-all-reduce": "buffers of all-reduces, which were measured with it",
    "-O": "which graphs are captured",
    "--optimization-level": "which graphs are captured",
    "--moe-backend": "experts laid out for another kernel",
    "--linear-backend": "weights laid out for another kernel",
    "--kv-transfer-config": "buffers that move keys and values",
    "--kv-offloading-size": "keys and values on the host",
    "--kv-offloading-backend": "keys and values on the host",
    "--offload-backend": "weights on the host",
    "--offload-group-size": "weights on the host",
    "--enable-sleep-mode": "another allocator",
    "--enable-cumem-allocator": "another allocator",
    "--enable-dbo": "a step in two halves",
    "--ubatch-size": "a step in pieces",
    "--calculate-kv-scales": "scales of the cache",
    "--mamba-cache-mode": "which states are kept",
    "--mamba-block-size": "how often states are kept",
    "--kv-sharing-fast-prefill": "layers that are not run",
    "--disable-sliding-window": "a shorter model",
    "--fully-sharded-loras": "slots of adapters cut once more",
    "--lora-dtype": "slots of adapters in another dtype",
    "--lora-target-modules": "slots of some maps only",
    "--enable-prompt-embeds": "buffers for prompts that are no words",
    "--performance-mode": "steps twice as large",
    "--model-impl": "transformers' classes in place of vLLM's",
    "--quantization-config": "another quantisation",
    "--kv-cache-dtype-skip-layers": "layers whose cache is left in 16 bits",
    "--config": "flags in a file; write them out",
    "--additional-config": "settings of another platform's plugin",
    "--all2all-backend": "buffers that carry tokens to experts",
    "--attention-config": "workspaces and blocks of another kernel; of its backends say --attention-backend",
    "-ac": "workspaces and blocks of another kernel; of its backends say --attention-backend",
    "--aux-output-config": "results handed out beside the text",
    "--enable-return-routed-experts": "results handed out beside the text",
    "--cp-kv-cache-interleave-size": "how a cache is spread over devices",
    "--dcp-kv-cache-interleave-size": "how a cache is spread over devices",
    "--dcp-comm-backend": "buffers of devices that share a cache",
    "--dcp-q-replicate": "query maps that stand on each device",
    "--cpu-offload-params": "which weights go to the host",
    "--offload-num-in-group": "weights on the host",
    "--offload-params": "weights on the host",
    "--offload-prefetch-step": "weights on the host",
    "--dbo-decode-token-threshold": "a step in two halves",
    "--dbo-prefill-token-threshold": "a step in two halves",
    "--device-memory-utilization": "of a machine's shared memory; say --gpu-memory-utilization",
    "--diffusion-config": "models that write by diffusion",
    "-dc": "models that write by diffusion",
    "--ec-manager-config": "buffers of an encoder",
    "--ec-transfer-config": "buffers that move what an encoder made",
    "--elastic-ep-max-dp-size": "room for copies to come",
    "--enable-elastic-ep": "room for copies to come",
    "--enable-batch-sharded-sampling": "logits cut by requests",
    "--enable-hc-sp": "activations cut by tokens",
    "--enable-mamba-cache-stochastic-rounding": "states in another dtype",
    "--mamba-cache-philox-rounds": "states in another dtype",
    "--enable-mixed-moe-lora-format": "slots of adapters of experts",
    "--enable-moe-shared-loras": "slots of adapters of experts",
    "--enable-tower-connector-lora": "slots of adapters of towers",
    "--specialize-active-lora": "graphs for each number of adapters",
    "--max-lora-cls-labels": "slots of adapters of classifiers",
    "--enable-nccl-comm-suspend": "another allocator",
    "--sleep-mode-backend": "another allocator",
    "--sleep-mode-offload-cudagraph": "another allocator",
    "--enable-trace-replay": "buffers of traces",
    "--engram-config": "tables of word sequences",
    "--eplb-config": "copies of experts that are asked often",
    "--gdn-prefill-backend": "which states are kept",
    "--kda-decode-backend": "which states are kept",
    "--kda-prefill-backend": "which states are kept",
    "--mamba-backend": "workspaces of another kernel",
    "--mamba-ssu-algorithm": "workspaces of another kernel",
    "--use-replayssm": "inputs kept beside states",
    "--replayssm-buffer-len": "inputs kept beside states",
    "--ir-op-priority": "which kernels run",
    "--kernel-config": "which kernels run",
    "--monokernel": "which kernels run",
    "--sparse-indexer-topk-backend": "which kernels run",
    "--mm-device-do-normalize": "images that are prepared on the device",
    "--mm-processor-device": "images that are prepared on the device",
    "--mm-encoder-attn-backend": "workspaces of the tower's kernel",
    "--mm-encoder-attn-dtype": "a tower in another dtype",
    "--mm-encoder-fp8-scale-path": "a tower in another dtype",
    "--mm-encoder-fp8-scale-save-margin": "a tower in another dtype",
    "--mm-encoder-fp8-scale-save-path": "a tower in another dtype",
    "--mm-encoder-only": "a tower without its model",
    "--mm-ipc-gpu-memory-gb": "room for images on the device",
    "--pooler-config": "heads of pooling models",
    "--use-fp64-gumbel": "random numbers twice as wide",
    "--video-pruning-method": "videos cut short",
    "--video-pruning-rate": "videos cut short",
    "--worker-cls": "another program in place of vLLM's",
    "--worker-extension-cls": "another program in place of vLLM's",
    "-pcp": "a prompt spread over devices",
    "--spec-method": "what guesses ahead; say it in --speculative-config",
    "--spec-model": "what guesses ahead; say it in --speculative-config",
    "--spec-tokens": "what guesses ahead; say it in --speculative-config",
    "--speculative-model": "what guesses ahead; say it in --speculative-config",
    "--num-speculative-tokens": "what guesses ahead; say it in --speculative-config",
}
