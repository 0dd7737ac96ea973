"""The MLflow store: how it is opened, and its failures in words.

A run is found again by its run key, so that a resume, the evaluation and the registration all speak of the same run. A call may fail at any moment,
even after the server has done what it was asked: so whoever uses the store asks first what a run has, and can be told again.
"""

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ganlib.redact import redacted
from pipeline.code_digest.names import PACKAGES
from pipeline.params import ROOT, home
from pipeline.tracking.settings import TrackingConfig

RUN_KEY = "gan.run_key"
PARENT = "mlflow.parentRunId"
CLAIM, KEPT, WITHDRAWN = "gan.claim", "kept", "withdrawn"  # a parameter of a run: whether it is the one of its identity
MOST_TURNS = 20  # at finding a run that nobody withdraws; two of them are rare
KIND, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"  # MLflow's pages for model training, in place of those for chats
_ONE_AT_A_TIME = threading.RLock()  # importing MLflow, making a store: neither is safe from two threads


SQLITE = "sqlite:///"
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
NO_CREDENTIALS = f"wants credentials, and has got none or wrong ones (401); set {CREDENTIALS}"
FORBIDDEN = f"refuses these credentials (403): they are not allowed to do this; ask whoever runs the server, or set others: {CREDENTIALS}"
INVALID_HOST = "Invalid Host header"  # what a server of MLflow's says to a name that it was not started with
OTHER_HOST = "does not go by this host name (403); use the name it was started for, or start it with --allowed-hosts and this one"
GONE = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")  # error codes
UNREACHED = {  # what is in the error of a connection -> what it means
    "Failed to resolve": "there is no host of this name",
    "Name or service not known": "there is no host of this name",
    "Connection refused": "nobody listens at this port",
    "timed out": "no answer in time",
    "database is locked": "others have been writing to its sqlite file for too long; run this again, or use a server with another database",
}


def tracking_uri(tracking: TrackingConfig, root: Path = ROOT) -> str:
    """MLFLOW_TRACKING_URI, else `tracking.uri`, else a sqlite file in the project folder. It may hold a password: show `redacted` of it.

    A relative file lies in the project, wherever the command runs; of a temporary experiment, in the project that it came from.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI") or tracking.uri
    if not given:
        return sqlite_uri(home(root) / "mlflow.db")
    file, question, options = given.removeprefix(SQLITE).partition("?")
    if given.startswith(SQLITE) and file and not file.startswith(("/", ":", "file:")):
        return sqlite_uri(home(root) / unquote(file)) + question + options
    if not urlsplit(given).scheme and given != "databricks":
        return str(home(root) / given)
    return given


def sqlite_uri(path: Path) -> str:
    """The address of a database in a file; a %, ? or # of its path would otherwise name another file, or options."""
    return SQLITE + _quoted(path)


def _quoted(path: Path) -> str:
    """What means something in an address, and no more: MLflow makes a folder of the name that it reads."""
    return "".join(quote(letter) if letter in "%?#" else letter for letter in str(path))


def sqlite_path(uri: str) -> Path | None:
    """The file of such an address; None for another kind of store."""
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])) if uri.startswith(SQLITE) else None


def import_mlflow() -> None:
    """Seconds, and nobody is asked anything."""
    with _ONE_AT_A_TIME:
        _imported()


def _mlflow(uri: str) -> Any:
    """The mlflow module, pointed at `uri`."""
    mlflow = _imported()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow


def _imported() -> Any:
    """The mlflow module, quiet, without telemetry and without pickle."""
    for key, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # at once, for a connection that has gone stale; a server that is away is noticed in milliseconds
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",  # through the server: the object store behind it need not be reached from here
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the import
        import mlflow
    for name in ("alembic", "mlflow", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def machine_monitor(uri: str) -> Any:
    """MLflow's reader of the machine's processor, memory, disk, network and GPUs; not started."""
    with _ONE_AT_A_TIME:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        return SystemMetricsMonitor(run_id=None, tracking_uri=uri)


class Unanswered(OSError):
    """The tracking store cannot be reached, or refuses; names it."""


class Refused(Unanswered):
    """The tracking store answers, and says no: it will say so again.

    Attributes:
        where: its address, without a password.
        is_forbidden: it knows these credentials, and they may not do this.
    """

    def __init__(self, message: str, *, where: str, is_forbidden: bool = False) -> None:
        super().__init__(message)
        self.where, self.is_forbidden = where, is_forbidden


class Store:
    """One MLflow tracking store and experiment.

    Args:
        uri: tracking URI.
        experiment: name; made when it is not there, with artifacts beside a sqlite store.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.mlflow = _mlflow(uri)
        file = sqlite_path(uri)
        misread = Path(_quoted(file.parent)) if file is not None and _quoted(file.parent) != str(file.parent) else None
        self.client = self.mlflow.MlflowClient(uri)
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            location = _quoted(file.parent / "mlartifacts") if file is not None else None
            try:
                self.experiment_id = self.client.create_experiment(experiment, artifact_location=location, tags={KIND: MODEL_TRAINING})
                self._has_kind = True
            except self.mlflow.exceptions.MlflowException:
                found = self.client.get_experiment_by_name(experiment)
                if found is None:  # nobody was faster
                    raise
        if found is not None:
            self.experiment_id = found.experiment_id
            self._has_kind = KIND in found.tags
        if misread is not None:
            with contextlib.suppress(OSError):  # not empty: somebody's own
                misread.rmdir()

    def find_run(self, run_key: str) -> str | None:
        """The id of the run of this training, whatever its status."""
        runs = sorted(self._runs({RUN_KEY: run_key}), key=lambda run: run.data.params.get(CLAIM) != KEPT)
        return str(runs[0].info.run_id) if runs else None

    def run(
        self, run_key: str, *, name: str | None = None, tags: Mapping[str, str] | None = None, started: float | None = None
    ) -> tuple[Any, bool]:
        """The run of this training, made when there is none, and whether it was made now.

        Args:
            name, tags: of a new run.
            started: of the training, in seconds since 1970, for a new run.
        """
        if not self._has_kind:
            self.client.set_experiment_tag(self.experiment_id, KIND, MODEL_TRAINING)
            self._has_kind = True
        return self._one({RUN_KEY: run_key}, name=name or run_key[:12], tags=tags, started=started)

    def child(self, parent: str, key: str, value: str, *, name: str, tags: Mapping[str, str]) -> Any:
        """The run below the run `parent` whose tag `key` is `value`, made when there is none."""
        return self._one({PARENT: parent, key: value}, name=name, tags=tags, started=None)[0]

    def _one(self, identity: Mapping[str, str], *, name: str, tags: Mapping[str, str] | None, started: float | None) -> tuple[Any, bool]:
        """The run with the tags `identity`, and whether there was none.

        Two who find none make one each, in whatever order the store shows them. So nobody uses a run before it is claimed as KEPT, and nobody
        claims one before all others that he sees are claimed as WITHDRAWN: a claim is a parameter, which MLflow lets nobody change. Of two runs, who
        claims the one has seen the other or is seen by who claims that, so at most one is kept; who comes second reads again, and uses it.
        Whatever is withdrawn is deleted, by a later teller where the one who withdrew it has died; so is what an answer that got lost left behind.
        """
        is_new = False
        for _ in range(MOST_TURNS):
            runs = self._runs(identity)
            if not runs:
                is_new, start_time = True, None if started is None else int(started * 1000)
                self.client.create_run(self.experiment_id, run_name=name, tags={**(tags or {}), **identity}, start_time=start_time)
                runs = self._runs(identity)
            standing = [run for run in runs if run.data.params.get(CLAIM) != WITHDRAWN]
            chosen = next((run for run in standing if run.data.params.get(CLAIM) == KEPT), next(iter(standing), None))
            others = [run for run in runs if run is not chosen and not run.data.metrics]
            withdrawn = [run for run in others if self._claim(run, WITHDRAWN)]
            for run in withdrawn:
                self.client.delete_run(run.info.run_id)
            is_kept = chosen is not None and chosen.data.params.get(CLAIM) == KEPT
            if chosen is not None and (is_kept or (len(withdrawn) == len(others) and self._claim(chosen, KEPT))):
                return chosen, is_new
        raise Unanswered(f"MLflow at {redacted(self.uri)} shows no run that stays: {MOST_TURNS} were withdrawn by others")

    def _claim(self, run: Any, claim: str) -> bool:
        """Whether the run is claimed as `claim` now: the first claim stands."""
        if run.data.params.get(CLAIM) == claim:
            return True
        try:
            self.client.log_param(run.info.run_id, CLAIM, claim)
        except self.mlflow.exceptions.MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":  # what it says of another claim, and of a run that is deleted
                raise
            return False
        return True

    def _runs(self, identity: Mapping[str, str]) -> list[Any]:
        """Those that have something first, then the oldest."""
        runs = self.client.search_runs([self.experiment_id], " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items()))
        return sorted(runs, key=lambda run: (not run.data.metrics, run.info.start_time, run.info.run_id))

    def address(self, run_id: str) -> str:
        """What a person types to look at a run."""
        return f"{redacted(self.uri)} run {run_id}"


def open_store(tracking: TrackingConfig, root: Path = ROOT) -> Store:
    """The store params.yaml and the environment name.

    Raises:
        Unanswered: it does not answer.
    """
    uri = tracking_uri(tracking, root)
    with answering(uri), _ONE_AT_A_TIME:
        return Store(uri, tracking.experiment)


@contextlib.contextmanager
def answering(uri: str) -> Iterator[None]:
    """Whatever the store's driver raises in this block (SQL, HTTP, ...) becomes an Unanswered."""
    try:
        yield
    except Exception as error:
        module = type(error).__module__
        if module.partition(".")[0] in PACKAGES or (module == "builtins" and not isinstance(error, OSError)):  # ours
            raise
        where, text, status = redacted(uri), redacted(str(error), of=uri), _status(error)  # its own text may hold a password
        if status in (401, 403):
            is_host = status == 403 and INVALID_HOST in text
            trouble = OTHER_HOST if is_host else NO_CREDENTIALS if status == 401 else FORBIDDEN
            raise Refused(f"MLflow at {where} {trouble}", where=where, is_forbidden=status == 403 and not is_host) from None
        reason = next((words for sign, words in UNREACHED.items() if sign in text), text)
        raise Unanswered(f"MLflow at {where} does not answer (MLFLOW_TRACKING_URI or tracking.uri): {reason}") from None


def is_unseen(error: Exception) -> bool:
    """Whether an error says that a thing is not there or, as servers with accounts say of both, that one may not see it."""
    return getattr(error, "error_code", "") in GONE or _status(error) == 403


def is_busy(error: Exception) -> bool:
    """Whether an error says that the store has not done it because its database had no time, as a sqlite file that others write to."""
    return getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE" or "too many 503 error responses" in str(error)


def has_answered(error: Exception) -> bool:
    """Whether the store said no: what an error of the way to it is about may have been done, or be done yet."""
    return getattr(error, "error_code", "") not in ("", "INTERNAL_ERROR") or is_busy(error)


def _status(error: Exception) -> int | None:
    """The HTTP status that an error of MLflow's is about."""
    status = next((code for code in (401, 403) if f"error code {code}" in str(error) or f"{code} Client Error" in str(error)), None)
    get_status = getattr(error, "get_http_status_code", None)
    return status or (get_status() if get_status is not None else None)
