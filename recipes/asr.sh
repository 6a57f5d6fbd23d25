#!/usr/bin/env bash
# Speech start to finish: does it fit, write it down with who speaks, and score it where references lie beside the sounds.   recipes/asr.sh FOLDER [base|large-v3-turbo] [more flags]
set -euo pipefail
folder="${1:?recipes/asr.sh FOLDER [base]}" model="${2:-base}"
say() { echo "+ $*"; "$@"; }
say onecard asr plan --model "$model"
say onecard asr transcribe "$folder" --model "$model" --diarize --output_dir ./transcripts "${@:3}"
if find "$folder" -name "*.txt" | grep -q .; then say onecard asr evaluate "$folder" --model "$model"; fi
