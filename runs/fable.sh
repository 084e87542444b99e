#!/usr/bin/env bash
# A model of the kind that lies in the package: small, from scratch, of simple stories, with a
# vocabulary of its own.
#
#   runs/fable.sh [OUT] [MINUTES]
#
# OUT: the folder to make, out/fable by default; the model is OUT/last, trained on from OUT/run.
# MINUTES: how long to train the first phase, 60 by default.
# Environment: CORPUS, a folder with tinystories/, storybooks/, more/ and books/; VOCABULARY (4096);
# STEPS, instead of MINUTES, for a run that can be repeated bit by bit; LAST (280), the steps of the
# last phase; START, a model to begin that phase from, instead of a first one; THREADS (2); SEED (0).
# The same command again goes on with a run that was broken off.
set -euo pipefail

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
arguments "$0 [OUT] [MINUTES]" 0 2 "$@"

out=${1:-out/fable} minutes=${2:-60} last=${LAST:-280}
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "MINUTES '$minutes' is no number; try 60, or 0.5"
count LAST "$last" 280
corpus=${CORPUS:-$(dirname "$0")/../../shared/data/corpus_en}
budget=(--minutes "$minutes")
[ -z "${STEPS-}" ] || budget=(--steps "$STEPS")

spoken=("$corpus"/tinystories/train.txt "$corpus"/tinystories/train_recased.txt
  "$corpus"/more/train.txt)
stories=("${spoken[@]}" "$corpus"/storybooks/train.txt)
books=("$corpus"/books/train_simple.txt "$corpus"/books/train_classic.txt)
held=("$corpus"/tinystories/valid.txt "$corpus"/storybooks/valid.txt "$corpus"/more/valid.txt)
held_books="$corpus"/books/valid.txt
for text in "${stories[@]}" "${books[@]}" "${held[@]}" "$held_books"; do
  [ -f "$text" ] || die "$text is missing; name the folder of the texts by CORPUS=path"
done

# On two cores, the arithmetic that was the fastest on a Xeon without units for bfloat16; fixed, so
# that the same steps are the same bits.
same=(--dtype float32 --attention products --matmul blas --loss pieces --threads "${THREADS:-2}"
  --prompts "Once upon a time" --prompts "One day, a little fox"
  --prompts "You: Hello! What is your name?")

# One vocabulary for all sets, learnt from all that is trained on and from nothing held out; or that
# of the model to start from.
vocabulary=${START:-$out/all}
[ -n "${START-}" ] ||
  gpt2lab prepare "${stories[@]}" "${books[@]}" --learn "${VOCABULARY:-4096}" --held-out 0 \
    --out "$out/all"
gpt2lab prepare "${stories[@]}" --val "${held[0]}" --val "${held[1]}" --val "${held[2]}" \
  --vocabulary "$vocabulary" --out "$out/stories"
gpt2lab prepare "${books[@]}" --val "$held_books" --vocabulary "$vocabulary" --out "$out/books"
# What people say to each other in the stories, as the scripts that `gpt2lab chat` continues.
python "$(dirname "$0")/dialogues.py" "${spoken[@]}" --out "$out/dialogues.txt"
gpt2lab prepare "$out/dialogues.txt" --held-out 0.02 --vocabulary "$vocabulary" \
  --out "$out/dialogues"

train() { # run, the words of a new one
  if [ -f "$1/run.json" ]; then
    gpt2lab train --resume "$1"
  else
    gpt2lab train "${@:2}" --out "$1" "${same[@]}"
  fi
}

# There are more books than stories, but the model is to write stories: those get 65 of 100 texts.
[ -n "${START-}" ] ||
  train "$out/run" "$out/stories" "$out/books" --weights 0.65,0.35 "${budget[@]}" \
    --layers 6 --heads 4 --width 256 --context 512 --batch-size 16 --seed "${SEED:-0}" \
    --learning-rate 2e-3 --final-learning-rate 1e-5 --schedule linear \
    --val-every 200 --save-every 200 --sample-every 200

# The last phase begins again at a lower rate, which falls to nothing, and adds the dialogues.
train "$out/last" "$out/stories" "$out/books" "$out/dialogues" --weights 0.62,0.30,0.08 \
  --model "${START:-$out/run}" --steps "$last" --batch-size 8 --seed 3 \
  --learning-rate 6e-4 --final-learning-rate 0 --schedule linear --warmup 10 \
  --val-every 0 --save-every 25 --sample-every 100
