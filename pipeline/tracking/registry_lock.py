"""One at a time at a model of the registry: whoever decides who is champion also says so before anybody else looks.

MLflow's tags and aliases are last-wins; creating a registered model of a unique name is not. So the lock of NAME is the registered model `NAME.lock`.
A holder that died leaves it behind: whoever has waited and has seen the very same lock for `EXPIRY_SECONDS` by his own clock renames it to a name
that only this lock can get, which succeeds once, and tries again.

MLflow sets an alias under no condition, so a request that is late lands whoever holds the lock by then. Three things keep that from harm. A holder
begins nothing after `ACT_SHARE` of that time (`Held.check`), and the rest is longer than a call lasts: `store` allows two attempts of 30 s, and who
sets MLFLOW_HTTP_REQUEST_TIMEOUT or MLFLOW_HTTP_REQUEST_MAX_RETRIES higher does without. A lock is not released while a move may be on its way
(`Held.moving`). And a move is believed where the lock was still held after it (`Held.is_mine`).
"""

import contextlib
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.tracking.store import GONE, Store, Unanswered, has_answered, is_busy, is_unseen

SUFFIX = ".lock"
OWNER = "lock.owner"
HOLDER = "lock.holder"
EXPIRY_SECONDS = 150.0  # servers with accounts take a second a request when they are busy
ACT_SHARE = 0.4
LATE_SECONDS = 25.0  # of a call: less than its client's timeout, after which there may be two of it
WAIT_SECONDS = 300.0
POLL_SECONDS = (0.05, 0.25)

T = TypeVar("T")


class LockedError(Unanswered):
    """Somebody else is at this model, or was faster than a holder that was too slow."""


def now() -> float:
    """Seconds by a clock that goes on while this machine sleeps, as those of others do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(kw_only=True)
class Held:
    """A lock that is held.

    Attributes:
        until: when the last request may begin, of `now`.
        is_mine: asks the registry.
        is_left: nobody may have it before it has expired.
    """

    name: str
    until: float
    is_mine: Callable[[], bool]
    is_left: bool = False

    def check(self) -> None:
        """Raise LockedError where so much time has gone that somebody else may take the lock."""
        if now() > self.until:
            raise LockedError(
                f"{self.name}: the registry was too slow to decide in {ACT_SHARE * EXPIRY_SECONDS:g} s; no alias was moved. "
                "Run `dvc repro register` again"
            )

    @contextlib.contextmanager
    def moving(self) -> Iterator[None]:
        """Around a request that moves an alias, which is not begun too late: without an answer in time, it may be carried out yet.

        Raises:
            LockedError: as `check`.
        """
        self.check()
        started, was_left, self.is_left = now(), self.is_left, True
        try:
            yield
        except Exception as error:
            self.is_left = was_left or not has_answered(error)
            raise
        self.is_left = was_left or now() - started > LATE_SECONDS

    def insist(self, request: Callable[[], T]) -> T:
        """Make a request that may be made twice, again where the store had no time for it, while there is time."""
        while True:
            try:
                return request()
            except Exception as error:
                if not is_busy(error) or now() > self.until:
                    raise
            time.sleep(random.uniform(*POLL_SECONDS))


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
    until = _acquire(store, lock, token, wait_seconds=wait_seconds, expiry_seconds=expiry_seconds)
    found = Held(name=name, until=until, is_mine=lambda: _owner(_look(store, lock)) == token)
    try:
        yield found
    finally:
        with contextlib.suppress(store.mlflow.exceptions.MlflowException):  # what was decided stands, and the lock expires
            found.insist(lambda: _release(store, lock, found))


def _release(store: Store, lock: str, held: Held) -> None:
    """Delete the lock, unless so much time has gone that the one which is deleted might be another's."""
    if not held.is_left and now() < held.until and held.is_mine() and now() < held.until:
        store.client.delete_registered_model(lock)


def _acquire(store: Store, lock: str, token: str, *, wait_seconds: float, expiry_seconds: float) -> float:
    """Until when it may be used; of `now`."""
    error_type, begun = store.mlflow.exceptions.MlflowException, now()
    seen: tuple[Any, str] | None = None
    since = begun
    unknown: float | None = None  # when the first request was made of which nobody knows yet whether it got it
    while True:
        asked = now()
        try:
            store.client.create_registered_model(
                lock,
                tags={OWNER: token, HOLDER: f"process {os.getpid()} on {socket.gethostname()}"},
                description="Held while somebody decides who is champion; goes by itself. One that says `expired` may be deleted.",
            )
            return asked + ACT_SHARE * expiry_seconds
        except error_type as error:
            # MLflow looks up what is there already before it says so: gone by then, it says that instead
            if error.error_code not in ("RESOURCE_ALREADY_EXISTS", *GONE) and not is_busy(error):
                raise
        unknown = asked if unknown is None else unknown
        try:
            found = _look(store, lock)
        except error_type as error:
            if not is_busy(error):
                raise
            found = None
        else:
            if _owner(found) == token:  # made, and the answer got lost
                return unknown + ACT_SHARE * expiry_seconds
            unknown = None
        if found is not None:
            mark = (found.creation_timestamp, _owner(found))
            if mark != seen:
                seen, since = mark, now()
            elif now() - since > expiry_seconds:
                with contextlib.suppress(error_type):  # somebody was faster: only one can have this name
                    store.client.rename_registered_model(lock, f"{lock}.expired-{mark[0]}-{mark[1][:8]}")
                continue
        if now() - begun > wait_seconds:
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
