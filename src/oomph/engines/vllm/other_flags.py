"""The rest of vLLM's flags: those that move no memory of a device, and those that do and are not modelled.

Source: vllm/engine/arg_utils.py, vllm/entrypoints/openai/cli_args.py and vllm/envs.py of vLLM 0.33.0 and 0.19.0.
"""

from __future__ import annotations

_SWITCHES = """--trust-remote-code --disable-log-stats --disable-log-requests --enable-log-requests --async-scheduling
    --disable-uvicorn-access-log --allow-credentials --enable-ssl-refresh --return-tokens-as-token-ids
    --disable-frontend-multiprocessing --enable-request-id-headers --enable-auto-tool-choice --disable-fastapi-docs
    --enable-prompt-tokens-details --enable-server-load-tracking --enable-force-include-usage --enable-reasoning
    --enable-tokenizer-info-endpoint --enable-log-outputs --enable-log-deltas --log-error-stack --enable-offline-docs
    --exclude-tools-when-tool-choice-none --skip-tokenizer-init --use-tqdm-on-load --interleave-mm-strings
    --disable-mm-preprocessor-cache --kv-cache-metrics --cudagraph-metrics --enable-layerwise-nvtx-tracing
    --enable-mfu-metrics --enable-logging-iteration-details --fail-on-environ-validation --numa-bind
    --aggregate-engine-logging --disable-async-output-proc --disable-cascade-attn"""
_VALUES = """--host
    --port --uds --uvicorn-log-level --disable-access-log-for-endpoints --allowed-origins --allowed-methods
    --allowed-headers --api-server-count -asc --chat-template --chat-template-content-format --response-role
    --ssl-keyfile --ssl-certfile --ssl-ca-certs --ssl-cert-reqs --ssl-ciphers --root-path --middleware
    --tool-call-parser --tool-parser-plugin --tool-server --reasoning-parser --reasoning-parser-plugin --max-log-len
    --log-config-file --log-level --h11-max-incomplete-event-size --h11-max-header-count --tokenizer --tokenizer-mode
    --tokenizer-revision --revision --code-revision --hf-token --allowed-local-media-path --allowed-media-domains
    --download-dir --load-format --model-loader-extra-config --ignore-patterns --config-format --seed --max-logprobs
    --logprobs-mode --generation-config --override-generation-config --otlp-traces-endpoint
    --collect-detailed-traces --show-hidden-metrics-for-version --max-parallel-loading-workers
    --distributed-executor-backend --scheduling-policy --scheduler-cls --preemption-mode --stream-interval
    --guided-decoding-backend --structured-outputs-config --safetensors-load-strategy --prefix-caching-hash-algo
    --long-prefill-token-threshold --max-num-partial-prefills --max-long-partial-prefills --mm-processor-cache-gb
    --mm-processor-cache-type --kv-events-config --data-parallel-address -dpa --data-parallel-rpc-port -dpp
    --data-parallel-backend -dpb --data-parallel-rank -dpn --data-parallel-start-rank -dpr --data-parallel-size-local
    -dpl --master-addr --master-port --nnodes --node-rank --distributed-timeout-seconds --shutdown-timeout
    --kv-cache-metrics-sample --max-num-queued-reqs --max-num-queued-tokens --default-chat-template-kwargs
    --renderer-num-workers --watchdog-config --numa-bind-nodes --numa-bind-cpus"""
_MANY = "--served-model-name --api-key --lora-modules"
_VARIABLES = """VLLM_API_KEY VLLM_LOGGING_LEVEL VLLM_CONFIGURE_LOGGING VLLM_LOGGING_CONFIG_PATH VLLM_LOGGING_PREFIX
    VLLM_NO_USAGE_STATS VLLM_DO_NOT_TRACK DO_NOT_TRACK VLLM_HOST_IP VLLM_PORT VLLM_RPC_TIMEOUT VLLM_RPC_BASE_PATH
    VLLM_ENGINE_ITERATION_TIMEOUT_S VLLM_ENGINE_READY_TIMEOUT_S VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS
    VLLM_WORKER_MULTIPROC_METHOD VLLM_USE_MODELSCOPE VLLM_CACHE_ROOT VLLM_CONFIG_ROOT VLLM_ASSETS_CACHE
    VLLM_SKIP_P2P_CHECK VLLM_KEEP_ALIVE_ON_ENGINE_DEATH VLLM_LOG_STATS_INTERVAL VLLM_TARGET_DEVICE
    VLLM_IMAGE_FETCH_TIMEOUT VLLM_VIDEO_FETCH_TIMEOUT VLLM_HTTP_TIMEOUT_KEEP_ALIVE VLLM_ENABLE_V1_MULTIPROCESSING
    VLLM_SERVER_DEV_MODE VLLM_ALLOW_RUNTIME_LORA_UPDATING VLLM_NCCL_SO_PATH"""

HARMLESS = (
    frozenset(_SWITCHES.split())
    | {f"--no-{word[2:]}" for word in _SWITCHES.split()}
    | {f"{word}=" for word in (*_VALUES.split(), *_VARIABLES.split())}
    | {f"{word}=+" for word in _MANY.split()}
)

_HOST = "it moves weights to the machine's memory"
_GRAPHS = "how many sizes CUDA graphs are captured for decides what they take"
_IMAGES = "it decides what a trial step reads of images"
_APART = "prefill and decoding apart are not known"
REFUSED = {
    "--cpu-offload-params": _HOST, "--offload-backend": _HOST, "--offload-group-size": _HOST,
    "--offload-num-in-group": _HOST, "--offload-params": _HOST, "--offload-prefetch-step": _HOST,
    "--kv-offloading-size": "it keeps a cache in the machine's memory",
    "--kv-offloading-backend": "it keeps a cache in the machine's memory", "--kv-transfer-config": _APART,
    "--ec-transfer-config": _APART, "--compilation-config": _GRAPHS, "-cc": _GRAPHS,
    "--optimization-level": _GRAPHS, "-O": _GRAPHS, "--cudagraph-capture-sizes": _GRAPHS,
    "--cuda-graph-sizes": _GRAPHS, "--max-cudagraph-capture-size": _GRAPHS, "--max-seq-len-to-capture": _GRAPHS,
    "--limit-mm-per-prompt": _IMAGES, "--mm-processor-kwargs": _IMAGES, "--skip-mm-profiling": _IMAGES,
    "--mm-encoder-tp-mode": "it copies the vision tower", "--enable-mm-embeds": _IMAGES,
    "--hf-overrides": "it changes the config: point oomph at the changed config.json",
    "--hf-config-path": "point oomph at that config.json", "--rope-scaling": "write it into the config.json",
    "--enable-expert-parallel": "how experts are spread over devices is not modelled", "-ep": "how experts are spread"
    " over devices is not modelled", "--enable-eplb": "it copies experts",
    "--prefill-context-parallel-size": "it spreads sequences over devices", "-pcp": "it spreads sequences over devices",
    "--enable-dbo": "it keeps two batches", "--ubatch-size": "it keeps several batches",
    "--attention-backend": "its workspace depends on it", "--attention-config": "its workspace depends on it",
    "-ac": "its workspace depends on it", "--disable-sliding-window": "how layers keep tokens then is not modelled",
    "--kv-sharing-fast-prefill": "its buffers are not known", "--enable-sleep-mode": "it allocates in another pool",
    "--lora-dtype": "of adapters oomph knows those in the model's dtype", "--fully-sharded-loras": "it cuts adapters",
    "--max-cpu-loras": "it keeps adapters in the machine's memory",
    "--mamba-block-size": "its pages are of another size",
    "--mamba-cache-mode": "how many states a request takes is not known then",
    "--runner": "pooling models keep no cache", "--task": "pooling models keep no cache",
    "--convert": "pooling models keep no cache", "--device": "only CUDA is known",
    "--config": "it reads flags from a file: write them out", "--num-scheduler-steps": "it keeps several steps",
    "--quantization-config": "say --quantization", "--headless": "it is one part of several",
    "--speculative-model": "say --speculative-config", "--num-speculative-tokens": "say --speculative-config",
    "--spec-method": "say --speculative-config", "--spec-model": "say --speculative-config",
    "--spec-tokens": "say --speculative-config",
    "--calculate-kv-scales": "it reads a batch before it knows the scales of its cache",
}  # fmt: skip
SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
