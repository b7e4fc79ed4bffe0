"""The rest of llama-server's flags: those that move no memory of a device, and those that do and are not modelled.

Source: common/arg.cpp of llama.cpp 0c1e57098.
"""

from __future__ import annotations

MODELS = ("-m", "--model", "-hf", "-hfr", "--hf-repo", "-hff:", "--hf-file:")
_SWITCHES = """--cache-idle-slots --no-cache-idle-slots --context-shift --no-context-shift --perf --no-perf
    --show-timings --no-show-timings -e --escape --no-escape --warmup --no-warmup --ignore-eos -cb --cont-batching
    -nocb --no-cont-batching --check-tensors --metrics --props --slots --no-slots --jinja --no-jinja --cache-prompt
    --no-cache-prompt --reasoning-preserve --no-reasoning-preserve --skip-chat-parsing --no-skip-chat-parsing
    --prefill-assistant --no-prefill-assistant --webui --no-webui --ui --no-ui --reuse-port --simple-io
    --log-disable -v --verbose --log-verbose --offline --log-prefix --no-log-prefix --log-timestamps
    --no-log-timestamps --log-jsonl --no-log-jsonl --verbose-prompt -cnv --conversation -no-cnv --no-conversation
    -st --single-turn -sp --special --display-prompt --no-display-prompt --spm-infill --cors-credentials
    --no-cors-credentials --no-mmproj --no-mmproj-auto --mmproj-auto --mlock -h --help --usage --version -cl
    --cache-list --completion-bash --list-devices --ui-mcp-proxy --webui-mcp-proxy --no-ui-mcp-proxy
    --no-webui-mcp-proxy -ag --agent -no-ag --no-agent"""
_VALUES = """--host --port --path --api-prefix --api-key --api-key-file --ssl-key-file --ssl-cert-file
    --cors-origins --cors-methods --cors-headers -to --timeout --threads-http -t --threads -tb --threads-batch -C
    --cpu-mask -Cr --cpu-range --cpu-strict --prio --poll -Cb --cpu-mask-batch -Crb --cpu-range-batch
    --cpu-strict-batch --prio-batch --poll-batch --numa -n --predict --n-predict --keep -p --prompt -sys
    --system-prompt -f --file -s --seed --samplers --sampler-seq --sampling-seq --temp --temperature --top-k --top-p
    --min-p --top-nsigma --top-n-sigma --xtc-probability --xtc-threshold --typical --typical-p --repeat-last-n
    --repeat-penalty --presence-penalty --frequency-penalty --dry-multiplier --dry-base --dry-allowed-length
    --dry-penalty-last-n --dry-sequence-breaker --dynatemp-range --dynatemp-exp --mirostat --mirostat-lr
    --mirostat-ent -l --logit-bias --grammar --grammar-file -j --json-schema -jf --json-schema-file --rope-scaling
    --rope-scale --rope-freq-base --rope-freq-scale --yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor
    --yarn-beta-slow --yarn-beta-fast -dt --defrag-thold -a --alias --tags -hft --hf-token --chat-template
    --chat-template-file --chat-template-kwargs --reasoning-format -rea --reasoning --reasoning-effort
    --reasoning-budget --reasoning-budget-message --cache-reuse --slot-save-path --media-path -sps
    --slot-prompt-similarity --sse-ping-interval --log-file --log-colors -lv --verbosity --log-verbosity -co --color
    --sleep-idle-seconds --ui-config --webui-config -cms --checkpoint-min-step --image-min-tokens -bf --binary-file
    --adaptive-target --adaptive-decay --video-fps --video-timestamp-interval --video-ffmpeg-dir -lcs
    --lookup-cache-static -lcd --lookup-cache-dynamic -r --reverse-prompt --embd-normalize --ui-config-file
    --webui-config-file --tools --tools-runtime --mcp-servers-config --mcp-servers-json --log-prompts-dir
    --spec-draft-threads -td --threads-draft --spec-draft-threads-batch -tbd --threads-batch-draft
    --spec-draft-cpu-mask -Cd --cpu-mask-draft --spec-draft-cpu-range -Crd --cpu-range-draft --spec-draft-cpu-strict
    --cpu-strict-draft --spec-draft-prio --prio-draft --spec-draft-poll --poll-draft --spec-draft-cpu-mask-batch
    -Cbd --cpu-mask-batch-draft --spec-draft-cpu-range-batch -Crbd --cpu-range-batch-draft
    --spec-draft-cpu-strict-batch --cpu-strict-batch-draft --spec-draft-prio-batch --prio-batch-draft
    --spec-draft-poll-batch --poll-batch-draft --spec-draft-n-min --spec-synth-len --spec-synth-rates
    --spec-draft-p-split --draft-p-split --spec-draft-p-min --draft-p-min --spec-ngram-mod-n-min
    --spec-ngram-mod-n-match --spec-ngram-simple-size-n --spec-ngram-simple-min-hits --spec-ngram-map-k-size-n
    --spec-ngram-map-k-min-hits --spec-ngram-map-k4v-size-n --spec-ngram-map-k4v-min-hits"""

HARMLESS = frozenset(_SWITCHES.split()) | {f"{word}=" for word in _VALUES.split()} | {"--control-vector-layer-range=+"}

_DRAFT = "what it moves of a draft is not known"
_GUESSES = "how many tokens are guessed ahead, for which the largest batch has logits"
_REMOVED = "newest builds have it no longer; say --spec-draft-n-max, --spec-draft-n-min or --spec-ngram-..."
_PRESET = "it stands for a model and several flags: write them out"
_PROJECTOR = "name the projector's file by --mmproj"
_POOLED = "a server of embeddings is not known"
_OTHERS = "it serves several models"
REFUSED = {
    "--mtp": _DRAFT, "--dflash": _DRAFT, "--eagle3": _DRAFT,
    "-devd": _DRAFT,
    "--device-draft": _DRAFT, "--spec-draft-device": _DRAFT, "-otd": _DRAFT, "--override-tensor-draft": _DRAFT,
    "-cmoed": _DRAFT, "--cpu-moe-draft": _DRAFT, "-ncmoed": _DRAFT, "--n-cpu-moe-draft": _DRAFT,
    "--spec-draft-override-tensor": _DRAFT, "--spec-draft-cpu-moe": _DRAFT, "--spec-draft-n-cpu-moe": _DRAFT,
    "--spec-draft-ncmoe": _DRAFT, "--spec-draft-backend-sampling": _DRAFT, "--no-spec-draft-backend-sampling": _DRAFT,
    "--spec-default": _DRAFT, "--draft": _REMOVED, "--draft-max": _REMOVED, "--draft-n": _REMOVED,
    "--draft-min": _REMOVED, "--draft-n-min": _REMOVED, "--spec-ngram-size-n": _REMOVED,
    "--spec-ngram-size-m": _REMOVED, "--spec-ngram-min-hits": _REMOVED, "--spec-ngram-mod-n-max": _GUESSES,
    "--spec-ngram-simple-size-m": _GUESSES, "--spec-ngram-map-k-size-m": _GUESSES,
    "--spec-ngram-map-k4v-size-m": _GUESSES, "-bs": "samplers on the GPU", "--backend-sampling": "samplers on the GPU",
    "--mtmd-batch-max-tokens": "how many images are read at once", "-lzm": "which tables are read row by row",
    "--lazy-mode": "which tables are read row by row", "--embd-gemma-default": _PRESET,
    "--fim-qwen-1.5b-default": _PRESET, "--fim-qwen-3b-default": _PRESET, "--fim-qwen-7b-default": _PRESET,
    "--fim-qwen-7b-spec": _PRESET, "--fim-qwen-14b-spec": _PRESET, "--fim-qwen-30b-default": _PRESET,
    "--gpt-oss-20b-default": _PRESET, "--gpt-oss-120b-default": _PRESET, "--vision-gemma-4b-default": _PRESET,
    "--vision-gemma-12b-default": _PRESET,
    "--pooling": _POOLED, "--rerank": _POOLED, "--reranking": _POOLED, "-dev": "name the devices by --gpu",
    "--device": "name the devices by --gpu", "--rpc": "devices of other machines are not known",
    "-nr": "whether weights are packed anew for the processor is not known",
    "--no-repack": "whether weights are packed anew for the processor is not known",
    "--repack": "whether weights are packed anew for the processor is not known",
    "--no-host": "it moves the host's buffers", "-ncffn": "which maps stay with the host is not known",
    "--n-cpu-ffn": "which maps stay with the host is not known", "--override-kv": "it changes the model's header",
    "-ctxcp": "it keeps copies of caches on the host", "--ctx-checkpoints": "it keeps copies of caches on the host",
    "--swa-checkpoints": "it keeps copies of caches on the host", "--mmproj-url": _PROJECTOR, "-mmu": _PROJECTOR,
    "-mmdev": "name the devices by --gpu", "--mmproj-device": "name the devices by --gpu",
    "--kv-unified-per-slot": "say -c", "-gan": "a cache of grouped positions is not known",
    "-gaw": "a cache of grouped positions is not known", "-lm": "say --mmap or --no-mmap",
    "--load-mode": "say --mmap or --no-mmap", "-mu": "name the model's file", "--model-url": "name the model's file",
    "-dr": "name the model's file", "--docker-repo": "name the model's file", "--models-dir": _OTHERS,
    "--models-preset": _OTHERS, "--models-max": _OTHERS, "--models-autoload": _OTHERS,
    "--no-models-autoload": _OTHERS,
}  # fmt: skip
