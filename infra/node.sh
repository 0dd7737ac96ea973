#!/bin/sh
# One node of several that start together (Slurm, Kubeflow TrainJob): `sh infra/node.sh RANK ADDRESS NODES CPUS [STAGE ...]`, the same on each.
# ADDRESS is HOST:PORT of the node of rank 0: that one runs infra/job.sh and returns its exit code, the others lend their CPUs and return 0.
#   GANPIPE_RAY_OPTIONS     options of `ray start`
#   GANPIPE_EXIT_CODE_FILE  gets the exit code of infra/job.sh: who starts several nodes hears the largest code of any, a killed node's 143 for one
set -eu
rank=$1 address=$2 nodes=$3 cpus=$4
shift 4
cd "$(dirname "$0")/.."
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}"  # Ray's 30 s are short of a cold file system

# symmetric-run answers 0 when Ray itself did not start or was interrupted: the run leaves its own exit code here.
code_file="${GANPIPE_EXIT_CODE_FILE:-}"
if [ -z "$code_file" ]; then
    code_file="$(mktemp)"
    trap 'rm -f "$code_file"' EXIT
fi
export code_file

# symmetric-run tells its command nothing about the cluster: without RAY_ADDRESS the training would start a Ray of its own.
status=0
# shellcheck disable=SC2086
ray symmetric-run --address "$address" --min-nodes "$nodes" --num-cpus="$cpus" ${GANPIPE_RAY_OPTIONS:-} -- \
    env RAY_ADDRESS="$address" \
    sh -c 'code=0; sh infra/job.sh "$@" || code=$?; echo "$code" >"$code_file"; exit "$code"' job "$@" || status=$?

if [ -s "$code_file" ]; then
    status="$(cat "$code_file")"
elif [ "$rank" -eq 0 ] && [ "$status" -eq 0 ]; then
    echo "Ray did not start on the head node: the log above says why" >&2
    status=1
fi
if [ "$rank" -eq 0 ]; then
    echo "$status" >"$code_file"
fi
exit "$status"
