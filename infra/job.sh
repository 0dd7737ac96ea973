#!/bin/sh
# The whole of a cluster job, the same for Ray Jobs, KubeRay and Slurm: a private copy of the commit, `dvc repro` in it, the results kept.
# Arguments: stages to reproduce, none for all. Settings, all optional (infra/README.md describes them):
#   GANPIPE_WORKSPACE  folder every node sees; runs, DVC cache and training state live there. Unset: a temporary folder of this node and user
#   GANPIPE_JOB        name of the run's folder and of its results; unset: the time and a process id
#   GANPIPE_CREDENTIALS  file on this node with NAME=VALUE lines, which join the environment: secrets that nobody sent
#   GANPIPE_STATE      train.state_uri where it is relative: it is kept in the workspace, so a new run resumes. Empty: leave it alone
#   GANPIPE_KEEP_DAYS  a run's folder is removed by a later run, so many days after it ended (30); one that was killed a year later
#   GANPIPE_RESULTS    folder that gets a copy of dvc.lock, params.yaml, reports, samples and models, after a failure too
set -eu
cd "$(dirname "$0")/.."
job="${GANPIPE_JOB:-$(date -u +%Y%m%dT%H%M%SZ)-$$}"
case "$job" in
    *[!A-Za-z0-9._-]* | [!A-Za-z0-9]* | "") echo "GANPIPE_JOB=$job is no name: expected letters, digits, '.', '_' and '-'" >&2; exit 1 ;;
esac
export GANPIPE_JOB="$job"
workspace="${GANPIPE_WORKSPACE:-}"
if [ -z "$workspace" ]; then
    workspace="${TMPDIR:-/tmp}/ganpipe-$(id -u)" # a name that anybody can take before us, so it must be ours, and is closed to others
    mkdir -m 700 "$workspace" 2>/dev/null || true
    if [ -L "$workspace" ] || [ ! -d "$workspace" ] || [ ! -O "$workspace" ]; then
        echo "$workspace is no folder of user $(id -u), though it has the name of one: remove it, or set GANPIPE_WORKSPACE" >&2
        exit 1
    fi
    chmod 700 "$workspace"
fi
run="$workspace/runs/$job"
case "$workspace" in
    /*) ;;
    *) echo "GANPIPE_WORKSPACE=$workspace is not an absolute path" >&2; exit 1 ;;
esac
keep_days="${GANPIPE_KEEP_DAYS:-30}"
case "$keep_days" in
    *[!0-9]*) echo "GANPIPE_KEEP_DAYS=$keep_days is no number of days" >&2; exit 1 ;;
esac

export GANPIPE_WORKSPACE="$workspace"
if [ -n "${GANPIPE_CREDENTIALS:-}" ]; then
    if [ ! -r "$GANPIPE_CREDENTIALS" ]; then
        echo "GANPIPE_CREDENTIALS=$GANPIPE_CREDENTIALS cannot be read on node $(hostname): put the file there, for this user alone" >&2
        exit 1
    fi
    while IFS= read -r line || [ -n "$line" ]; do
        case "${line%%=*}" in
            "$line" | "" | [0-9]* | *[!A-Za-z0-9_]*) ;; # no NAME=VALUE
            *) export "$line" ;;                        # as it stands: nothing in it is run
        esac
    done <"$GANPIPE_CREDENTIALS"
fi

# Ray unpacks one package once a node and hands the folder to every job that sends the same commit: work in a copy, never in it.
mkdir -p "$workspace/runs" "$workspace/cache" "$workspace/state"
find "$workspace/runs" -mindepth 2 -maxdepth 2 -name .ended -mtime "+$keep_days" | while IFS= read -r ended; do
    echo "removing ${ended%/.ended}: that run ended more than $keep_days days ago (GANPIPE_KEEP_DAYS)"
    rm -rf "${ended%/.ended}"
done
find "$workspace/runs" -mindepth 1 -maxdepth 1 -type d -mtime "+$((keep_days + 365))" ! -exec test -e '{}/.ended' ';' -exec rm -rf '{}' +
attempt=1
while ! mkdir -m 700 "$run" 2>/dev/null; do # the same job again, from a server that forgot the first
    [ -d "$run" ] || mkdir -m 700 "$run"
    attempt=$((attempt + 1))
    run="$workspace/runs/$job.$attempt"
done
if [ -e .git ]; then
    git archive --format=tar HEAD | tar -xf - -C "$run"
    export GANPIPE_GIT_COMMIT="${GANPIPE_GIT_COMMIT:-$(git rev-parse HEAD)}"
else
    cp -R . "$run"
fi
cd "$run"
trap 'touch "$run/.ended"' EXIT
echo "running commit ${GANPIPE_GIT_COMMIT:-unknown} in $(hostname):$run"

state="${GANPIPE_STATE-state}"
if [ -n "$state" ]; then
    mkdir -p "$(dirname "$state")"
    ln -s "$workspace/state" "$state"
fi
printf '[core]\n    no_scm = true\n    analytics = false\n[cache]\n    dir = %s\n' "$workspace/cache" >.dvc/config.local

pull=""
if [ -n "$(dvc config core.remote)" ]; then pull=--pull; fi   # outs of earlier jobs, and data that the commit names but does not hold
status=0
dvc repro $pull "$@" || status=$?
# DVC ends with 255 whatever a stage ended with. Above 128 only signals are left: somebody killed it.
if [ "$status" -ne 0 ] && { [ "$status" -le 128 ] || [ "$status" -gt 192 ]; }; then status=1; fi

if [ "$status" -eq 0 ]; then
    python -m pipeline.submit.results || { status=5; echo "the pipeline succeeded, but its results were not kept; they are in $(hostname):$run" >&2; }
fi
if [ -n "${GANPIPE_RESULTS:-}" ]; then
    mkdir -p "$GANPIPE_RESULTS/$job"
    for name in dvc.lock params.yaml reports samples models; do
        if [ -e "$name" ]; then cp -RL "$name" "$GANPIPE_RESULTS/$job/" || status=1; fi
    done
    echo "results are in $GANPIPE_RESULTS/$job"
fi
exit "$status"
