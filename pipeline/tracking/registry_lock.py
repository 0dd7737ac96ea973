"""One at a time at a model of the registry: whoever decides who is champion also says so before anybody else looks.

MLflow's tags and aliases are last-wins; creating a registered model of a unique name is not. So the lock of NAME is the registered model `NAME.lock`.
A holder that died leaves it behind: whoever has waited and has seen the very same lock for `EXPIRY_SECONDS` by his own clock renames it to a name
that only this lock can get, which succeeds once, and tries again. A holder acts within half that time or not at all (`Held.check`).
"""

import contextlib
import os
import random
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.tracking.store import GONE, Store, Unanswered, is_busy, is_unseen

SUFFIX = ".lock"
OWNER = "lock.owner"
HOLDER = "lock.holder"
EXPIRY_SECONDS = 120.0  # servers with accounts take a second a request when they are busy
WAIT_SECONDS = 300.0
POLL_SECONDS = (0.05, 0.25)


class LockedError(Unanswered):
    """Somebody else is at this model, or was faster than a holder that was too slow."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A lock that is held."""

    name: str
    until: float  # of time.monotonic

    def check(self) -> None:
        """Raise LockedError where so much time has gone that somebody else may take the lock."""
        if time.monotonic() > self.until:
            raise LockedError(
                f"{self.name}: the registry was too slow to decide in {EXPIRY_SECONDS / 2:g} s; no alias was moved. Run `dvc repro register` again"
            )


def is_lock(name: str) -> bool:
    """Whether a registered model is none, but the lock of one, held or expired."""
    return SUFFIX in name and name.partition(SUFFIX)[2][:1] in ("", ".")


@contextlib.contextmanager
def held(store: Store, name: str, *, wait_seconds: float = WAIT_SECONDS, expiry_seconds: float = EXPIRY_SECONDS) -> Iterator[Held]:
    """Hold the lock of the registered model `name`.

    Raises:
        LockedError: another holder for all of `wait_seconds`.
    """
    lock, token = f"{name}{SUFFIX}", uuid.uuid4().hex
    started, until = _acquire(store, lock, token, wait_seconds=wait_seconds, expiry_seconds=expiry_seconds)
    try:
        yield Held(name=name, until=until)
    finally:
        if time.monotonic() < started + expiry_seconds and _owner(_look(store, lock)) == token:
            store.client.delete_registered_model(lock)


def _acquire(store: Store, lock: str, token: str, *, wait_seconds: float, expiry_seconds: float) -> tuple[float, float]:
    """When it was asked for, and until when it may be used; of time.monotonic."""
    error_type, begun = store.mlflow.exceptions.MlflowException, time.monotonic()
    seen: tuple[Any, str] | None = None
    since = begun
    while True:
        asked = time.monotonic()
        try:
            store.client.create_registered_model(
                lock,
                tags={OWNER: token, HOLDER: f"process {os.getpid()} on {socket.gethostname()}"},
                description="Held while somebody decides who is champion; goes by itself. One that says `expired` may be deleted.",
            )
            return asked, asked + expiry_seconds / 2
        except error_type as error:
            # MLflow looks up what is there already before it says so: gone by then, it says that instead
            if error.error_code not in ("RESOURCE_ALREADY_EXISTS", *GONE) and not is_busy(error):
                raise
        found = _look(store, lock)
        if _owner(found) == token:  # made, and the answer got lost
            return asked, asked + expiry_seconds / 2
        if found is not None:
            mark = (found.creation_timestamp, _owner(found))
            if mark != seen:
                seen, since = mark, time.monotonic()
            elif time.monotonic() - since > expiry_seconds:
                with contextlib.suppress(error_type):  # somebody was faster: only one can have this name
                    store.client.rename_registered_model(lock, f"{lock}.expired-{mark[0]}-{mark[1][:8]}")
                continue
        if time.monotonic() - begun > wait_seconds:
            who = found.tags.get(HOLDER, "somebody") if found is not None else "others, in turns"
            raise LockedError(
                f"{lock.removesuffix(SUFFIX)}: {who} has been deciding for {wait_seconds:g} s; run `dvc repro register` again later, or delete the "
                f"registered model {lock!r} where nobody is at it"
            )
        time.sleep(random.uniform(*POLL_SECONDS))


def _look(store: Store, lock: str) -> Any:
    """None where it is gone, or another account's."""
    try:
        return store.client.get_registered_model(lock)
    except store.mlflow.exceptions.MlflowException as error:
        if not is_unseen(error):
            raise
        return None


def _owner(found: Any) -> str:
    return str(found.tags.get(OWNER, "")) if found is not None else ""
