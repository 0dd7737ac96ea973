#!/bin/sh
# A node is to go: a training that drives from here is asked for a last checkpoint and waited for. `sh infra/drain.sh SECONDS`
# Kubernetes runs it before it ends a pod, Slurm's script before the time limit. The stage alone is told: a signal to all would end Ray first.
set -u
limit=$1
find_stages() { pgrep -f '^[^ ]*python[0-9.]* -m pipeline\.stages\.train( |$)' || true; }
stages="$(find_stages)"
[ -n "$stages" ] || exit 0
echo "asking the training for its last checkpoint: $(echo "$stages" | tr '\n' ' ')" >&2
# shellcheck disable=SC2086
kill -TERM $stages 2>/dev/null || true
while [ "$limit" -gt 0 ] && [ -n "$(find_stages)" ]; do
    sleep 1
    limit=$((limit - 1))
done
exit 0
