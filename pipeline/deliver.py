"""Tells MLflow what it could not be told while trainings ran: losses, events, grids and how they ended.

A training never waits for MLflow. What a server that was away or slow did not take stays in the training's state (`tracking.json` says whether
something is); the stages `train`, `evaluate` and `register` deliver it when they run, and so does this command. It can be given again and again,
nothing is written twice. Runs that are RUNNING though their training is dead become KILLED.

Exit code 0: nothing is left to deliver; 1: something is, and the lines before say why.
"""

import argparse
import sys
import textwrap

from pipeline import cli, preflight
from pipeline.tracking import outbox
from pipeline.tracking.delivery import deliver_pending


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.deliver",
        description=textwrap.dedent(__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--limit-seconds", type=float, default=3600.0, help="give up after so long (default: %(default)g)")
    arguments = parser.parse_args()
    config = preflight.load()
    lines = deliver_pending(config.tracking, config.train.state_uri, limit_seconds=arguments.limit_seconds)
    for line in lines:
        print(line)
    left = outbox.pending(config.train.state_uri)
    for storage, waiting in left:
        print(f"not delivered: training {waiting.run_key[:12]} ({storage.uri})")
    if not lines:
        print("MLflow knows everything: nothing to deliver")
    sys.exit(1 if left or any(line.startswith("warning") for line in lines) else 0)


if __name__ == "__main__":
    cli.run(main)
