#!/usr/bin/env bash
# GPT-2 1558M from scratch on several machines with several GPUs each, the model divided among all
# of them (FSDP). The same command is given on every machine, with the same arguments:
#
#   RENDEZVOUS=node1:29500 runs/gpt2_1558M.sh OUT TOKENS
#
# OUT: the folder to make; the run lies in OUT/run. TOKENS: a folder made by gpt2lab prepare. Both
# in a file system that all machines share.
# Environment: NODES (4); GPUS, on each of them (8); RENDEZVOUS, one machine's name or address and a
# free port; JOB, a word that the processes know each other by (gpt2-1558M); MICRO, texts computed
# at once on a GPU (4); STEPS (60000); SEED (0); RECOMPUTE=1, a third of the memory for activations
# and a third more time; TFLOPS, what one GPU can do in bfloat16 (312, an A100), and MFU, the share
# of it that is reached (0.4), for the estimate that is told first; PLAN=1, that only; SMOKE=1, the
# same way with a tiny model on two processes of this machine's CPU, in a minute.
#
# With Slurm, one task a machine, which starts its GPUs' processes:
#
#   export RENDEZVOUS="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500"
#   srun --nodes 4 --ntasks-per-node 1 --gpus-per-node 8 runs/gpt2_1558M.sh OUT TOKENS
#
# The same command again goes on with a run that was broken off, on as many GPUs to the same bits, on
# more or fewer up to rounding. SIGTERM (scancel, preemption) saves first, in the time that torchrun
# gives it (30 s by itself, here 120) and Slurm (KillWait and GraceTime).
# When one process dies torchrun ends the others: start the job again.
#
# In a private network only: the processes (torch.distributed) neither prove to each other who they
# are nor hide what they say, and whoever reaches their ports can run code in them.
set -euo pipefail

usage="RENDEZVOUS=host:port $0 OUT TOKENS, on every machine; --help tells more"

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
least=2
[ -z "${PLAN-}" ] || least=0 # the estimate needs none
arguments "$usage" "$least" 2 "$@"

nodes=${NODES:-4} gpus=${GPUS:-8} micro=${MICRO:-4} steps=${STEPS:-60000} batch=512
tflops=${TFLOPS:-312} mfu=${MFU:-0.4}
count NODES "$nodes" 4
count GPUS "$gpus" 8
count MICRO "$micro" 4
count STEPS "$steps" 60000
number='^[0-9]*\.?[0-9]*[1-9][0-9]*\.?[0-9]*$'
[[ $tflops =~ $number ]] || die "TFLOPS '$tflops' is no number above 0; try TFLOPS=312"
[[ $mfu =~ $number ]] || die "MFU '$mfu' is no share above 0; try MFU=0.4"
world=$((nodes * gpus))
((batch % (world * micro) == 0)) || die "a step has $batch texts, which $world GPUs with $micro at \
once cannot share equally; choose NODES, GPUS and MICRO whose product divides it"

# What it needs. N parameters, L layers, E width, T context, V vocabulary, W GPUs, t = T * MICRO
# tokens computed at once on one of them, D tokens in all.
#   computing   6 N operations a token for the weights and 12 L E T for attention, of which a GPU
#               does TFLOPS * MFU; 4/3 of it with RECOMPUTE
#   memory of a GPU, the sum of
#     16 N / W               float32 weights, gradients, and AdamW's two moments, divided
#     8 V E + 24 N / L       what is put together: the embeddings and their gradient in float32, and
#                            of two blocks the bfloat16 weights and gradients and their float32 sums
#     (34 L E + 16 V) t      kept for the backward pass (2 L E instead of 34 L E with RECOMPUTE, and
#                            34 E of the block that is computed anew), and logits
#   memory of the first machine beside it: 4 N, where the model is put together to be saved
#   network     each GPU sends and receives 3 * 2 N bytes and more a step and part of a step
#   disk        2 bytes a token of the corpus; 12 N for each of the checkpoints that are kept
# What a process holds is measured by
#   gpt2lab train --dry-run --world-size 32 --size 1558M --parallel fsdp --batch-size 512 \
#     --micro-batch 4
# (on the CPU's path: with 2 H T L t bytes of attention's scores, without the logits).
awk -v steps="$steps" -v batch=$batch -v world="$world" -v micro="$micro" -v tflops="$tflops" \
  -v mfu="$mfu" -v recompute="${RECOMPUTE-}" 'BEGIN {
    N = 1557611200; L = 48; E = 1600; T = 1024; V = 50257
    t = T * micro; D = steps * batch * T
    work = (6 * N + 12 * L * E * T) * D * (recompute ? 4 / 3 : 1)
    kept = recompute ? 2 * L * E + 34 * E : 34 * L * E
    printf "%.1f billion tokens, %.2g operations: %.0f hours on %d GPUs of %s TFLOPS at MFU %s\n",
      D / 1e9, work, work / (world * tflops * 1e12 * mfu) / 3600, world, tflops, mfu
    printf "%.1f GB on a GPU: %.1f divided, %.1f put together, %.1f for the %d tokens at once\n",
      (16 * N / world + 8 * V * E + 24 * N / L + (kept + 16 * V) * t) / 1e9, 16 * N / world / 1e9,
      (8 * V * E + 24 * N / L) / 1e9, (kept + 16 * V) * t / 1e9, t
    printf "%.1f GB of disk for each checkpoint\n", 12 * N / 1e9
  }' >&2
[ -z "${PLAN-}" ] || exit 0

out=$1 tokens=$2
[ -f "$tokens/manifest.json" ] || die "$tokens holds no prepared tokens (manifest.json is missing); \
make them once, on one machine: gpt2lab prepare TEXT... --out $tokens"

model=(--size 1558M --batch-size "$batch" --micro-batch "$micro" --warmup 2000 --dtype bfloat16
  --learning-rate 2e-4 --final-learning-rate 2e-5 --val-every 1000 --val-tokens 1048576
  --save-every 500 --sample-every 0)
if [ -n "${SMOKE-}" ]; then
  export OMP_NUM_THREADS=1
  meet=(--standalone --nproc-per-node 2)
  steps=${STEPS:-20}
  model=(--layers 2 --heads 2 --width 64 --context 64 --batch-size 8 --micro-batch 2 --warmup 2
    --learning-rate 1e-3 --val-every 10 --save-every 10 --sample-every 0 --device cpu)
else
  [[ ${RENDEZVOUS-} =~ ^[^:]+:[0-9]+$ ]] || die "RENDEZVOUS '${RENDEZVOUS-}' is no host:port; give \
every machine the same, as in RENDEZVOUS=node1:29500"
  meet=(--nnodes "$nodes" --nproc-per-node "$gpus" --rdzv-backend c10d
    --rdzv-endpoint "$RENDEZVOUS" --rdzv-id "${JOB:-gpt2-1558M}")
fi
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
[ -z "${RECOMPUTE-}" ] || model+=(--recompute)

# The file is written only after all machines have met, so all of them choose the same way here.
if [ -f "$out/run/run.json" ]; then
  exec torchrun "${meet[@]}" -m gpt2lab train --resume "$out/run"
fi
exec torchrun "${meet[@]}" -m gpt2lab train "$tokens" --out "$out/run" --parallel fsdp \
  "${model[@]}" --steps "$steps" --seed "${SEED:-0}" --schedule cosine --weight-decay 0.1 \
  --beta1 0.9 --beta2 0.95 --clip 1
