#!/usr/bin/env bash
# Trains with torchrun as the launcher. On several hosts run this on each, with the address of the first:
#
#   NODES=2 MASTER=node1:29400 torchrun.sh 8 run runs/mine --preset sd
#
set -euo pipefail

processes=$1
shift
# Otherwise torchrun gives each worker one thread.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(($(nproc) / processes > 0 ? $(nproc) / processes : 1))}"
if [ "${NODES:-1}" -eq 1 ]; then
  where=(--standalone)
else
  where=(--nnodes "$NODES" --rdzv-backend c10d --rdzv-id "${RUN_ID:-b2}" --rdzv-endpoint "$MASTER")
fi
exec torchrun "${where[@]}" --nproc-per-node "$processes" --no-python npx b2 "$@"
