#!/usr/bin/env bash
# Trains with workers on several hosts over ssh. Each host has this project in the same folder, and the models.
#
#   ssh.sh "node1 node2" 8 run runs/mine --preset sd
#
# The first host becomes rank 0 and holds the run folder. Needs keys or an agent for ssh.
set -euo pipefail

read -r -a hosts <<<"$1"
processes=$2
shift 2
port=${MASTER_PORT:-29500}
folder=$(printf '%q' "$PWD")
command=$(printf '%q ' "$@")

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT INT TERM
for i in "${!hosts[@]}"; do
  # With a terminal, so that the remote command ends with this one.
  ssh -tt -o BatchMode=yes "${hosts[$i]}" "cd $folder && npx b2 launch --processes $processes --nodes ${#hosts[@]} \
    --node-rank $i --master ${hosts[0]}:$port -- $command" </dev/null &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "$status"
