#!/usr/bin/env bash
# Go on with a model on a text of one's own: 124M, in the recipe that most people know from
# transformers (texts of 128 tokens, three epochs).
#
#   runs/finetune.sh TEXT [OUT]
#
# TEXT: a file (txt, md, csv, jsonl, parquet, also gz), a folder or a 'pattern'.
# OUT: the folder of the run, out/finetune by default.
# Environment: MODEL (124M; any that gpt2lab reads, "fable" is the small one in the package);
# EPOCHS (3); STEPS, instead of epochs; VAL, a text to validate on.
# The same command again goes on with a run that was broken off.
set -euo pipefail

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
arguments "$0 TEXT [OUT]" 1 2 "$@"

text=$1 out=${2:-out/finetune}
budget=(--epochs "${EPOCHS:-3}")
[ -z "${STEPS-}" ] || budget=(--steps "$STEPS")
val=()
[ -z "${VAL-}" ] || val=(--val "$VAL")

if [ -f "$out/run.json" ]; then
  exec gpt2lab finetune --resume --out "$out"
fi

# Eight texts a step at a low rate, as the model knows English already: what it would forget by
# larger steps it does not learn again from a text this small. The end of a document is learnt too,
# which the recipe of old left out.
gpt2lab finetune "$text" --model "${MODEL:-124M}" --out "$out" "${budget[@]}" \
  ${val[@]+"${val[@]}"} --block-size 128 --batch-size 8 --learning-rate 5e-5 --warmup 20 --schedule linear

cat >&2 << USE

to write with it:       gpt2lab generate --model $out "..."
for other programs:     gpt2lab convert $out my-model --to huggingface
then in transformers:   AutoModelForCausalLM.from_pretrained("my-model")
USE
