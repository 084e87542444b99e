#!/usr/bin/env bash
# When a circuit appears: a model of two layers learns to copy, all at once, and keeps every
# checkpoint, so that it can be seen.
#
#   runs/induction.sh [OUT]
#
# OUT: the folder to make, out/induction by default; the run lies in OUT/run.
# Environment: STEPS (1600); SEED (0), of the text and of the run.
# What is to be seen, in two to five minutes on two cores: up to step 640 to 680 the loss lies on a
# plateau (3.5) and no head copies (induction score under 0.15); within the next 160 steps the score
# of a head of layer 1 passes
# 0.7 (0.9 at the end), the loss falls to 2.8, and on random tokens that come twice the second time
# costs 1.3 nats instead of 5. The previous-token head of layer 0 rises before. So for seeds 0, 1, 2.
# The same command again goes on with a run that was broken off.
set -euo pipefail

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
arguments "$0 [OUT]" 0 1 "$@"

out=${1:-out/induction} steps=${STEPS:-1600} seed=${SEED:-0}
[[ $steps =~ ^[1-9][0-9]{0,5}$ ]] || die "STEPS '$steps' is no whole number from 1 to 999999; \
try STEPS=1600"
[[ $seed =~ ^(0|[1-9][0-9]{0,8})$ ]] || die "SEED '$seed' is no whole number from 0 to 999999999; \
try SEED=0"

# What to look at, told when the run is over.
tell() {
  cat >&2 << USE

to see when the circuit appears:   gpt2lab look --run $out/run
USE
}

if [ -f "$out/run/run.json" ]; then
  gpt2lab train --resume "$out/run"
  tell
  exit 0
fi

# The text. A document is a stretch of letters that comes twice, and nothing else: its second half
# can be had by copying alone. Where the copy is to be found differs from document to document, as
# the stretch has 8 to 50 letters, and nothing marks where documents begin (this vocabulary has no
# end token): no fixed look back helps, one has to find what stood before. Half of what is drawn for
# a stretch is a single letter, half a word of two or three out of 300. The words are the same in all
# documents and the reason to look at the letter before, which the copying is then built upon:
# without them there is no bump in such a run. 128 letters, so that few come twice in a stretch.
mkdir -p "$out"
python3 - "$seed" "$((60 * steps + 1000))" > "$out/text.txt" << 'DRAW'
import random
import sys

seed, documents = map(int, sys.argv[1:])
draw = random.Random(seed)
letters = [chr(code) for code in range(0x41, 0x250) if chr(code).isalpha()][:128]
words = ["".join(draw.choices(letters, k=draw.randint(2, 3))) for _ in range(300)]
sys.stdout.reconfigure(encoding="utf-8", newline="\n")
for _ in range(documents):
    length, stretch = draw.randint(8, 50), ""
    while len(stretch) < length:
        stretch += draw.choice(words if draw.random() < 0.5 else letters)
    print(stretch[:length] * 2, "<|endoftext|>", sep="\n")
DRAW

gpt2lab prepare "$out/text.txt" --characters --out "$out/tokens"

gpt2lab train "$out/tokens" --out "$out/run" --steps "$steps" --seed "$seed" \
  --layers 2 --heads 2 --width 64 --context 128 --batch-size 64 \
  --learning-rate 3e-3 --schedule constant --warmup 50 --beta2 0.99 \
  --save-every 40 --save-total-limit 0 --val-every 200 --sample-every 0
tell
