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
    enable-layerwise-nvtx-tracing ray-workers-use-nsight numa-bind aggregate-engine-logging"""
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
    renderer-num-workers max-num-queued-reqs max-num-queued-tokens"""
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
    *_VARIABLES.split(),
})  # fmt: skip

REFUSED = {
    "VLLM_USE_V1=0": "the engine before V1 has a cache of its own",
    "--enable-eplb": "copies of experts that are asked often",
    "--prefill-context-parallel-size": "a prompt spread over devices",
    "--limit-mm-per-prompt": "how many images the trial step encodes",
    "--mm-processor-kwargs": "how large the images of the trial step are",
    "--mm-encoder-tp-mode": "whole copies of the tower on each device",
    "--skip-mm-profiling": "a trial step without images",
    "--hf-overrides": "another config than the model's",
    "--hf-config-path": "another config than the model's",
    "--disable-custom-all-reduce": "buffers of all-reduces, which were measured with it",
    "--compilation-config": "which graphs are captured",
    "-O": "which graphs are captured",
    "--optimization-level": "which graphs are captured",
    "--cudagraph-capture-sizes": "which graphs are captured",
    "--max-cudagraph-capture-size": "which graphs are captured",
    "--attention-backend": "workspaces and blocks of another kernel",
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
    "--spec-method": "what guesses ahead; say it in --speculative-config",
    "--spec-model": "what guesses ahead; say it in --speculative-config",
    "--spec-tokens": "what guesses ahead; say it in --speculative-config",
}
