#!/bin/sh
# The whole of a cluster job, the same for Ray Jobs, KubeRay and Slurm: a private copy of the commit, `dvc repro` in it, the results kept.
# Arguments: stages to reproduce, none for all. Settings, all optional (infra/README.md describes them):
#   GANPIPE_WORKSPACE  folder every node sees; runs, DVC cache and training state live there. Unset: a temporary folder of this node
#   GANPIPE_JOB        name of the run's folder; unset: the time and a process id
#   GANPIPE_STATE      train.state_uri where it is relative: it is kept in the workspace, so a new run resumes. Empty: leave it alone
#   GANPIPE_RESULTS    folder that gets a copy of dvc.lock, params.yaml, reports, samples and models, after a failure too
set -eu
cd "$(dirname "$0")/.."
job="${GANPIPE_JOB:-$(date -u +%Y%m%dT%H%M%SZ)-$$}"
workspace="${GANPIPE_WORKSPACE:-${TMPDIR:-/tmp}/ganpipe}"
run="$workspace/runs/$job"
case "$workspace" in
    /*) ;;
    *) echo "GANPIPE_WORKSPACE=$workspace is not an absolute path" >&2; exit 1 ;;
esac

# Ray unpacks one package once a node and hands the folder to every job that sends the same commit: work in a copy, never in it.
mkdir -p "$workspace/runs" "$workspace/cache" "$workspace/state"
mkdir "$run"
if [ -e .git ]; then
    git archive --format=tar HEAD | tar -xf - -C "$run"
    export GANPIPE_GIT_COMMIT="${GANPIPE_GIT_COMMIT:-$(git rev-parse HEAD)}"
else
    cp -R . "$run"
fi
cd "$run"
echo "running commit ${GANPIPE_GIT_COMMIT:-unknown} in $(hostname):$run"

state="${GANPIPE_STATE-state}"
if [ -n "$state" ]; then
    mkdir -p "$(dirname "$state")"
    ln -s "$workspace/state" "$state"
fi
printf '[core]\n    no_scm = true\n    analytics = false\n[cache]\n    dir = %s\n' "$workspace/cache" >.dvc/config.local

status=0
dvc repro "$@" || status=$?

if [ "$status" -eq 0 ] && [ -n "$(dvc config core.remote)" ]; then
    dvc push --run-cache ${1:+--with-deps} "$@" || { status=$?; echo "the pipeline succeeded but dvc push failed; its outputs are in $(hostname):$run" >&2; }
fi
if [ -n "${GANPIPE_RESULTS:-}" ]; then
    mkdir -p "$GANPIPE_RESULTS/$job"
    for name in dvc.lock params.yaml reports samples models; do
        if [ -e "$name" ]; then cp -RL "$name" "$GANPIPE_RESULTS/$job/" || status=1; fi
    done
    echo "results are in $GANPIPE_RESULTS/$job"
fi
exit "$status"
