#!/usr/bin/env bash
# A tiny language model start to finish: does it fit, train, write, measure, talk.   recipes/tinylm.sh book.txt [1m|3m|10m] [more flags]
set -euo pipefail
text="${1:?recipes/tinylm.sh book.txt [1m]}" size="${2:-1m}"
out="./tinylm-$size"
say() { echo "+ $*"; "$@"; }
say onecard tinylm plan --size "$size"
say onecard tinylm train "$text" --size "$size" --output_dir "$out" "${@:3}"
say onecard tinylm generate "$out/model" --max_new_tokens 200
say onecard tinylm evaluate "$out/model"
