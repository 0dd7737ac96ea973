#!/bin/sh
# An object store on one machine: MLflow's artifacts, DVC's remote, training state and shards. More machines: SeaweedFS's own documentation.
set -eu
secrets="${SECRETS:-/run/secrets}"
AWS_SECRET_ACCESS_KEY="$(cat "$secrets/s3_secret_key")"
export AWS_SECRET_ACCESS_KEY
exec weed mini -dir=/data -ip="$(hostname -i | cut -d ' ' -f 1)" -ip.bind=0.0.0.0 -bucket=mlflow,dvc,state,data -admin.ui=false
