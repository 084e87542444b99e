#!/usr/bin/env bash
# GPT-2 124M from scratch on a web corpus such as OpenWebText, as nanoGPT reproduced it: on one
# machine with several GPUs.
#
#   runs/gpt2_124M.sh OUT DATA...
#
# OUT: the folder to make; tokens lie in OUT/tokens, the run in OUT/run.
# DATA: the texts as .parquet, .jsonl or .txt, also gz: files, folders or 'patterns'. OpenWebText is
# Skylion007/openwebtext on the Hugging Face hub. A folder of gpt2lab prepare is taken as it is.
# Environment: GPUS (8); MICRO, texts computed at once on one (12); STEPS (600000); SEED (0);
# TFLOPS, what one GPU can do in bfloat16 (312, an A100), and MFU, the share of it that is reached
# (0.4), for the estimate that is told first; PLAN=1, that only; SMOKE=1, the same way with a tiny
# model, on a CPU, in a minute.
# The same command again goes on with a run that was broken off.
set -euo pipefail

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
least=2
[ -z "${PLAN-}" ] || least=0 # the estimate needs none
arguments "$0 OUT DATA..." "$least" "" "$@"

gpus=${GPUS:-8} micro=${MICRO:-12} steps=${STEPS:-600000}
count GPUS "$gpus" 8
count MICRO "$micro" 12
count STEPS "$steps" 600000
batch=480
((batch % (gpus * micro) == 0)) || die "a step has $batch texts, which $gpus GPUs with $micro at \
once cannot share equally; choose others"

# What it needs. N parameters, D tokens, L layers, E width, T context; A = L * E * T.
#   computing   6 N operations a token for the weights, 12 A for attention
#   memory      4 bytes a parameter each for weights, gradient and AdamW's two moments: 16 N; and
#               about 67 bytes * L * E for every token that is computed at once
#   disk        2 bytes a token of the corpus; 12 N for each of the checkpoints that are kept
# MICRO=12 takes some 10 GB; `gpt2lab train --dry-run --world-size 8 --size 124M --batch-size
# 480 --micro-batch 12` measures it, and --recompute takes a quarter of it and a third more time.
awk -v steps="$steps" -v batch=$batch -v gpus="$gpus" -v micro="$micro" \
  -v tflops="${TFLOPS:-312}" -v mfu="${MFU:-0.4}" 'BEGIN {
    N = 124439808; L = 12; E = 768; T = 1024
    D = steps * batch * T
    work = (6 * N + 12 * L * E * T) * D
    printf "%.1f billion tokens, %.2g operations: %.0f hours on %d GPUs of %s TFLOPS at MFU %s\n",
      D / 1e9, work, work / (gpus * tflops * 1e12 * mfu) / 3600, gpus, tflops, mfu
    printf "%.1f GB on a GPU, %.1f GB of disk for each checkpoint\n",
      (16 * N + 67 * L * E * T * micro) / 1e9, 12 * N / 1e9
  }' >&2
[ -z "${PLAN-}" ] || exit 0

out=$1
shift
model=(--size 124M --batch-size "$batch" --micro-batch "$micro" --warmup 2000 --compile
  --val-every 1000 --save-every 1000 --sample-every 5000)
train=(torchrun --standalone --nproc-per-node "$gpus" -m gpt2lab train)
if [ -n "${SMOKE-}" ]; then
  steps=${STEPS:-20}
  model=(--layers 2 --heads 2 --width 64 --context 64 --batch-size 8 --micro-batch 4 --warmup 2
    --val-every 10 --save-every 10 --sample-every 20 --device cpu)
  train=(gpt2lab train)
fi

if [ -f "$out/run/run.json" ]; then
  exec "${train[@]}" --resume "$out/run"
fi

tokens=$1
if [ $# -gt 1 ] || [ ! -f "$tokens/manifest.json" ]; then
  tokens=$out/tokens
  gpt2lab prepare "$@" --held-out "${HELD_OUT:-0.0005}" --out "$tokens" # nanoGPT's share
fi

# About half a million tokens a step. From nanoGPT the order differs: documents shuffled and packed,
# each token once an epoch, where nanoGPT draws windows anywhere. No padding of the vocabulary.
exec "${train[@]}" "$tokens" --out "$out/run" "${model[@]}" --steps "$steps" --seed "${SEED:-0}" \
  --learning-rate 6e-4 --final-learning-rate 6e-5 --schedule cosine --weight-decay 0.1 \
  --beta1 0.9 --beta2 0.95 --clip 1 --val-tokens 1000000
