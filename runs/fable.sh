#!/usr/bin/env bash
# A model of the kind that lies in the package: small, from scratch, of simple stories, with a
# vocabulary of its own.
#
#   runs/fable.sh [OUT] [MINUTES]
#
# OUT: the folder to make, out/fable by default; the run lies in OUT/run.
# MINUTES: how long to train, 60 by default.
# Environment: CORPUS, a folder with tinystories/, storybooks/ and books/; VOCABULARY (4096); STEPS,
# instead of MINUTES, for a run that can be repeated bit by bit; SEED (0).
# The same command again goes on with a run that was broken off.
set -euo pipefail

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
arguments "$0 [OUT] [MINUTES]" 0 2 "$@"

out=${1:-out/fable} minutes=${2:-60}
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "MINUTES '$minutes' is no number; try 60, or 0.5"
corpus=${CORPUS:-$(dirname "$0")/../../shared/data/corpus_en}
budget=(--minutes "$minutes")
[ -z "${STEPS-}" ] || budget=(--steps "$STEPS")

stories=("$corpus"/tinystories/train.txt "$corpus"/tinystories/train_recased.txt
  "$corpus"/storybooks/train.txt)
books=("$corpus"/books/train_simple.txt)
held=("$corpus"/tinystories/valid.txt "$corpus"/storybooks/valid.txt)
for text in "${stories[@]}" "${books[@]}" "${held[@]}"; do
  [ -f "$text" ] || die "$text is missing; name the folder of the texts by CORPUS=path"
done

if [ -f "$out/run/run.json" ]; then
  exec gpt2lab train --resume "$out/run"
fi

# One vocabulary for both sets, learnt from all that is trained on and from nothing held out.
gpt2lab prepare "${stories[@]}" "${books[@]}" --learn "${VOCABULARY:-4096}" --held-out 0 \
  --out "$out/all"
gpt2lab prepare "${stories[@]}" --val "${held[0]}" --val "${held[1]}" --vocabulary "$out/all" \
  --out "$out/stories"
gpt2lab prepare "${books[@]}" --held-out 0 --vocabulary "$out/all" --out "$out/books"

# There are more books than stories, but the model is to write stories: those get 65 of 100 texts.
# The rate is that of the model in the package, and falls in a line to nearly nothing as its did.
gpt2lab train "$out/stories" "$out/books" --weights 0.65,0.35 --out "$out/run" "${budget[@]}" \
  --layers 6 --heads 4 --width 256 --context 512 --batch-size 16 --seed "${SEED:-0}" \
  --learning-rate 2e-3 --final-learning-rate 1e-5 --schedule linear \
  --val-every 200 --save-every 200 --sample-every 200 --prompts "Once upon a time" \
  --prompts "One day, a little fox" --prompts "The king said"
