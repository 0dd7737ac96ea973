"""`python -m pipeline.results`: where the samples, the report and the registered version are."""

import argparse
import json
import shlex
from pathlib import Path

from ganlib.redact import redacted
from pipeline import cli, params
from pipeline.tracking.settings import TrackingConfig
from pipeline.tracking.store import tracking_uri


def describe(root: Path, tracking_uri: str) -> str:
    """A few lines for a person; ValueError when the pipeline has not run."""
    try:
        evaluation = json.loads((root / "reports" / "evaluation.json").read_text())
        registration = json.loads((root / "reports" / "registration.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"no results yet: {error}; run `make repro`") from None
    metrics = ", ".join(f"{key} {evaluation[key]:.4g}" for key in evaluation if f"{key}_low" in evaluation)
    version = f"models:/{registration['model']}/{registration['version']}"
    return "\n".join(
        [
            f"samples     {root / 'samples' / 'grid.png'}",
            f"            {root / 'samples'}",
            f"report      {root / 'reports' / 'report.html'}",
            f"decision    {root / 'reports' / 'registration.html'}",
            f"metrics     {metrics}",
            f"registered  {version} ({', '.join(registration['aliases'])}: {registration['reason']})",
            f"MLflow      mlflow ui --backend-store-uri {shlex.quote(redacted(tracking_uri))}",
        ]
    )


def main() -> None:
    argparse.ArgumentParser(prog="python -m pipeline.results", description=__doc__).parse_args()
    print(describe(params.project(), tracking_uri(params.section("tracking", TrackingConfig))))


if __name__ == "__main__":
    cli.run(main)
