#!/usr/bin/env bash
# The main job, start to finish: index a folder of real documents, ask it, score it. Further folders may be named.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" OMP_WAIT_POLICY=PASSIVE
# one index a checkout: an index keeps to its folders
index="${ONECARD_HOME:-$HOME/.cache/onecard}/indexes/demo-$(pwd | cksum | cut -d" " -f1)"
say() { printf '\n\033[1m$ %s\033[0m\n' "$*" >&2; "$@"; }

say onecard models pull smollm2-135m
say onecard rag plan --card cpu
say onecard rag index docs src README.md "$@" --index "$index"
say onecard rag ask "What happens to the index when a file changes or is deleted?" --index "$index"
say onecard rag evaluate --questions recipes/demo-questions.jsonl --index "$index"
printf '\nyour own folder:  make demo DOCS=~/notes      a page:  %s/onecard rag serve --index %s\n' "$(dirname "$(command -v onecard)")" "$index"
