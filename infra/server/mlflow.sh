#!/bin/sh
# MLflow behind accounts: runs and accounts in PostgreSQL, artifacts in the object store, which clients never talk to. compose.yaml says what it reads.
set -eu
secrets="${SECRETS:-/run/secrets}"
AWS_SECRET_ACCESS_KEY="$(cat "$secrets/s3_secret_key")"
MLFLOW_AUTH_ADMIN_PASSWORD="$(cat "$secrets/mlflow_admin_password")"
MLFLOW_FLASK_SERVER_SECRET_KEY="$(cat "$secrets/mlflow_session_key")"
export AWS_SECRET_ACCESS_KEY MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
database="postgresql+psycopg2://mlflow:$(cat "$secrets/postgres_password")@postgres:5432"

# The password stands in this file, so nobody else may read it; MLflow takes the address of its accounts from nowhere else.
umask 077
MLFLOW_AUTH_CONFIG_PATH="$(mktemp)"
export MLFLOW_AUTH_CONFIG_PATH
cat >"$MLFLOW_AUTH_CONFIG_PATH" <<END
[mlflow]
default_permission = READ
database_uri = $database/accounts
admin_username = ${MLFLOW_AUTH_ADMIN_USERNAME:-admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
END
export MLFLOW_BACKEND_STORE_URI="$database/mlflow"    # by the environment: an argument is seen by `ps`
exec mlflow server --app-name basic-auth --host 0.0.0.0 --port 5000 --workers 2 \
    --artifacts-destination s3://mlflow --allowed-hosts "$ALLOWED_HOSTS"
