#!/usr/bin/env bash
# QLoRA start to finish: look at the data, see whether it fits, tune, talk to the result.   recipes/finetune.sh pairs.jsonl [12gb|8gb|16gb|24gb|cpu]
set -euo pipefail
data="${1:?recipes/finetune.sh pairs.jsonl [12gb]}" preset="${2:-12gb}"
say() { printf '\n\033[1m$ %s\033[0m\n' "$*" >&2; "$@"; }

say onecard finetune check "$data" --preset "$preset"
say onecard finetune plan --preset "$preset"
say onecard finetune train "$data" --preset "$preset" --output_dir "./tuned-$preset" "${@:3}"
say onecard chat ask "Hello" --model run:last
