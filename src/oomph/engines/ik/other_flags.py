"""The rest of ik_llama.cpp's server flags: those that move no device's memory, those that do and are not modelled.

Source: common/common.cpp of ik_llama.cpp 8337e4cd.
"""

from __future__ import annotations

MODELS = ("-m", "--model", "-hfr", "--hf-repo", "-hff:", "--hf-file:")
# Of -sas and --max-gpu only --split-mode graph takes notice, which is refused.
_SWITCHES = """-e --escape --no-escape --ignore-eos --penalize-nl -cb --cont-batching -nocb --no-cont-batching
    --check-tensors --metrics --no-slots --jinja --peg --skip-chat-parsing --no-prefill-assistant -ptcall
    --parallel-tool-calls --no-context-shift --webui-mcp-proxy --ui-mcp-proxy -v --verbose --verbose-prompt
    --no-display-prompt -sp --special --simple-io --mlock -vq --validate-quants --no-warmup --warmup-batch -ger
    --grouped-expert-routing -gr --graph-reuse -no-gr --no-graph-reuse -rcache --rope-cache -no-ooae
    --no-offload-only-active-experts -sas --scheduler-async --send-done --prefetch-experts --spm-infill -co --color
    --log-disable --log-enable --log-new --log-append -dr --dry-run -cnv --conversation -i --interactive -if
    --interactive-first -h --help --usage --version --adaptive-updt-w-cur -mli --multiline-input --infill"""
_VALUES = """-s --seed -t --threads -tb --threads-batch -p --prompt -f --file -n --predict --n-predict --keep
    --numa --host --port --path --webui --api-key --api-key-file --ssl-key-file --ssl-cert-file -to --timeout
    --threads-http -spf --system-prompt-file --log-format --slot-save-path --reasoning-tokens --reasoning-budget
    --reasoning-budget-message --reasoning-format -rea --reasoning --sql-save-file --sqlite-zstd-ext-file
    --chat-template --chat-template-file --chat-template-kwargs -sps --slot-prompt-similarity --context-shift -crs
    --cache-ram-similarity -cram-n-min --cache-ram-n-min -a --alias -hft --hf-token --verbosity -ld --logdir -lcs
    --lookup-cache-static -lcd --lookup-cache-dynamic -l --logit-bias --grammar --grammar-file -j --json-schema
    --samplers --sampling-seq --temp --top-k --top-p --min-p --tfs --typical --top-n-sigma --xtc-probability
    --xtc-threshold --repeat-last-n --repeat-penalty --presence-penalty --frequency-penalty --dynatemp-range
    --dynatemp-exp --mirostat --mirostat-lr --mirostat-ent --dry-multiplier --dry-base --dry-allowed-length
    --dry-penalty-last-n --dry-sequence-breaker --adaptive-target --adaptive-decay --rope-scaling --rope-scale
    --rope-freq-base --rope-freq-scale --yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor --yarn-beta-slow
    --yarn-beta-fast -dt --defrag-thold -ser --smart-expert-reduction --prefetch-experts-threads --max-gpu -r
    --reverse-prompt --banned-string-file --banned-n -td --threads-draft -tbd --threads-batch-draft -tm
    --threads-mtmd --log-file"""
HARMLESS = frozenset(_SWITCHES.split()) | {f"{word}=" for word in _VALUES.split()}

_ADAPTERS = "it keeps adapters beside the model"
_DRAFTS = "what guesses tokens ahead is not known of it"
_PROJECTOR = "what a projector takes is not known of it"
_FIT = "what it arrives at is not known; say -ngl, -ncmoe and -ot"
_GRAPH = "--split-mode graph is not known"
_INDEXER = "an indexer is not known"
_JOINED = "maps that are joined when they are loaded are not known"
_SOME = "some layers' caches are of another type"
_COPIES = "it keeps copies of caches on the host"
_GROUPED = "a cache of grouped positions is not known"
_GPUS = "name the devices by --gpu"
REFUSED = {
    "-no-fa": "say -fa off", "--no-flash-attn": "say -fa off", "--fit": _FIT, "--fit-margin": _FIT, "-gfm": _FIT,
    "--gpu-fit-margin": _FIT, "--lora": _ADAPTERS, "--lora-scaled": _ADAPTERS, "--lora-init-without-apply": _ADAPTERS,
    "--control-vector": _ADAPTERS, "--control-vector-scaled": _ADAPTERS, "--control-vector-layer-range": _ADAPTERS,
    "-md": _DRAFTS, "--model-draft": _DRAFTS, "-draft": _DRAFTS, "--draft-params": _DRAFTS, "-ngld": _DRAFTS,
    "--gpu-layers-draft": _DRAFTS, "--n-gpu-layers-draft": _DRAFTS, "-cd": _DRAFTS, "--ctx-size-draft": _DRAFTS,
    "-ctkd": _DRAFTS, "--cache-type-k-draft": _DRAFTS, "-ctvd": _DRAFTS, "--cache-type-v-draft": _DRAFTS,
    "-devd": _DRAFTS, "--device-draft": _DRAFTS, "--draft": _DRAFTS, "--draft-max": _DRAFTS, "--draft-n": _DRAFTS,
    "--draft-min": _DRAFTS, "--draft-n-min": _DRAFTS, "--draft-p-min": _DRAFTS, "--spec-type": _DRAFTS,
    "--spec-stage": _DRAFTS, "--spec-autotune": _DRAFTS, "--spec-ckpt-mode": _DRAFTS, "--recurrent-ckpt-mode": _DRAFTS,
    "--spec-ngram-size-n": _DRAFTS, "--spec-ngram-size-m": _DRAFTS, "--spec-ngram-min-hits": _DRAFTS,
    "--suffix-pattern-len": _DRAFTS, "--suffix-max-depth": _DRAFTS, "--suffix-corpus": _DRAFTS,
    "-mtp": "prediction layers are not known", "--multi-token-prediction": "prediction layers are not known",
    "-no-mtp": "newest builds have it no longer", "--no-multi-token-prediction": "newest builds have it no longer",
    "-mtprot": "prediction layers are not known", "--mtp-requantize-output-tensor": "prediction layers are not known",
    "--mmproj": _PROJECTOR, "--mmproj-url": _PROJECTOR, "--no-mmproj-offload": _PROJECTOR,
    "--mtmd-kq-type": _PROJECTOR, "--image-min-tokens": _PROJECTOR, "--image-max-tokens": _PROJECTOR,
    "--embedding": "a server of embeddings is not known", "--embeddings": "a server of embeddings is not known",
    "--pooling": "a server of embeddings is not known", "--attention": "a server of embeddings is not known",
    "-ictk": _INDEXER, "--indexer-cache-type-k": _INDEXER, "-dsa": _INDEXER, "--dsa": _INDEXER, "-dsatk": _INDEXER,
    "--dsa-top-k": _INDEXER, "-fidx": _INDEXER, "--fused-indexer-topk": _INDEXER,
    "-ctk-first": _SOME, "--cache-type-k-first": _SOME, "-ctk-last": _SOME, "--cache-type-k-last": _SOME,
    "-ctv-first": _SOME, "--cache-type-v-first": _SOME, "-ctv-last": _SOME, "--cache-type-v-last": _SOME,
    "--swa-compress": "windows of one sequence kept apart", "-mqkv": _JOINED, "--merge-qkv": _JOINED, "-muge": _JOINED,
    "--merge-up-gate-experts": _JOINED, "-smgs": _GRAPH, "--split-mode-graph-scheduling": _GRAPH, "-smf16": _GRAPH,
    "--split-mode-f16": _GRAPH, "-smf32": _GRAPH, "--split-mode-f32": _GRAPH, "-grt": _GRAPH,
    "--graph-reduce-type": _GRAPH, "-gap": _GRAPH, "--graph-attn-precision": _GRAPH, "-mea": _GRAPH,
    "--max-extra-alloc": _GRAPH, "-cuda": "how CUDA computes", "--cuda-params": "how CUDA computes",
    "-op": "which operations copy weights to a GPU", "--offload-policy": "which operations copy weights to a GPU",
    "-fdn": "how delta nets compute", "--fused-delta-net": "how delta nets compute",
    "-thp": "the host's weights are not mapped from the file", "-dkvc": "how a cache is written out",
    "--transparent-huge-pages": "the host's weights are not mapped from the file",
    "--dump-kv-cache": "how a cache is written out", "--defer-experts": "experts are read when they are asked for",
    "-ctx-ckpt": _COPIES, "--ctx-checkpoints": _COPIES, "-ctx-ckpt-i": _COPIES, "--ctx-checkpoints-interval": _COPIES,
    "-ctx-ckpt-t": _COPIES, "--ctx-checkpoints-tolerance": _COPIES, "-ctx-ckpt-e": _COPIES,
    "--ctx-checkpoints-eviction": _COPIES, "-gan": _GROUPED, "--grp-attn-n": _GROUPED, "-gaw": _GROUPED,
    "--grp-attn-w": _GROUPED, "--rpc": "devices of other machines are not known", "-dev": _GPUS, "--device": _GPUS,
    "-okv": "it changes the model's header", "--override-kv": "it changes the model's header",
    "-mu": "name the model's file", "--model-url": "name the model's file",
}  # fmt: skip
