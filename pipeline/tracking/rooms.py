"""Whether MLflow lets these credentials into the rooms that a training and its registration need, asked before anything is trained.

A server that is away disturbs no training: what it misses is told later. One that answers and refuses will refuse in an hour, too.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from ganlib.redact import redacted
from pipeline.params import ROOT
from pipeline.tracking.settings import TrackingConfig
from pipeline.tracking.store import KIND, MODEL_TRAINING, Refused, Unanswered, answering, import_mlflow, is_unseen, open_store, tracking_uri

LIMIT_SECONDS = 20.0
REGISTERS = "gan.experiment"  # tag of a registered model: whose generators it holds


def check(tracking: TrackingConfig, model: str, root: Path = ROOT, *, limit_seconds: float = LIMIT_SECONDS) -> str:
    """Write what a training and a registration write first: the kind of the experiment, and a tag of the model or, where there is none, a model.

    Args:
        model: of the registry, by its name.

    Returns:
        a warning where the server does not answer, else "".

    Raises:
        Refused: wrong credentials, no permission, or a name that the server does not answer to; one line.
    """
    uri = tracking_uri(tracking, root)
    if not uri.startswith(("http://", "https://")):
        return ""
    import_mlflow()  # seconds, in which nobody is asked
    said: list[Exception] = []

    def ask() -> None:
        try:
            _ask(tracking, model, root, uri)
        except Exception as problem:
            said.append(problem)

    thread = threading.Thread(target=ask, name="ask MLflow for its rooms", daemon=True)
    thread.start()
    thread.join(limit_seconds)
    slow = Unanswered(f"MLflow at {redacted(uri)} has not answered for {limit_seconds:g} s") if thread.is_alive() else None
    problem = slow or next(iter(said), None)
    if problem is None:
        return ""
    if isinstance(problem, Refused) or not isinstance(problem, Unanswered):
        raise problem
    return f"{problem}; the training runs all the same, and tells it what it missed: `register` insists"


def _ask(tracking: TrackingConfig, model: str, root: Path, uri: str) -> None:
    with _room(f"experiment {tracking.experiment!r} (tracking.experiment)", "EDIT"):
        store = open_store(tracking, root)
        with answering(uri):
            store.client.set_experiment_tag(store.experiment_id, KIND, MODEL_TRAINING)
    with _room(f"registered model {model!r} (register.model)", "MANAGE"), answering(uri):
        try:
            store.client.get_registered_model(model)
        except store.mlflow.exceptions.MlflowException as error:
            if not is_unseen(error):
                raise
            with contextlib.suppress(store.mlflow.exceptions.MlflowException):  # it is there, and another's: the tag says so
                store.client.create_registered_model(model)
                store.client.delete_registered_model(model)
                return
        store.client.set_registered_model_tag(model, REGISTERS, tracking.experiment)


@contextlib.contextmanager
def _room(name: str, permission: str) -> Iterator[None]:
    try:
        yield
    except Refused as problem:
        if not problem.is_forbidden:
            raise
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        whom = f"the user {user!r} (MLFLOW_TRACKING_USERNAME)" if user else "these credentials"
        raise Refused(
            f"MLflow at {problem.where} does not let {whom} write to the {name} (403); name one of your own there, or ask for {permission} on it",
            where=problem.where,
        ) from None
