"""How a training on Ray can fail: in words, and whether another try would help."""

import errno
from collections.abc import Mapping

from ganlib.storage import StorageError
from ganlib.training.step import DivergenceError
from pipeline.driver import ray_private


class ClusterError(ValueError):
    """The cluster cannot do what params.yaml asks, or the training failed on it."""


class RayLost(ClusterError):
    """The Ray that was connected does not answer any more."""


def causes_of(error: BaseException) -> dict[int, BaseException]:
    """Rank -> what happened to it, out of Ray's wrappings."""
    return {rank: ray_private.unwrapped(failure) for rank, failure in sorted(ray_private.worker_failures(error).items())}


def is_final(cause: BaseException) -> bool:
    """Whether another try would end the same way."""
    no_space = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    return no_space or isinstance(cause, (DivergenceError, ValueError, StorageError))


def in_words(causes: Mapping[int, BaseException], error: BaseException) -> str:
    """A failure in one line."""
    from ray.exceptions import RayActorError

    if isinstance(error, RayLost):
        return "Ray died"
    if not causes:
        failure = ray_private.controller_failure(error)
        return f"the worker group failed: {type(failure).__name__}: {_reason(failure)}"
    died = [rank for rank, cause in causes.items() if isinstance(cause, RayActorError)]
    if died:
        return f"worker {died[0]} died"
    rank, cause = next(iter(causes.items()))
    text = str(cause).strip()
    if isinstance(cause, ray_private.hang_error()):
        return f"worker {rank} hangs"
    if isinstance(cause, RuntimeError) and "timeout" in text.lower():
        return f"worker {rank} waited in vain for another one"
    if isinstance(cause, RuntimeError) and ("gloo" in text or "Connection" in text or "NCCL" in text):
        return f"worker {rank} lost its connection to another one"
    return f"worker {rank}: {type(cause).__name__}: {text.partition(chr(10))[0]}"


def _reason(failure: BaseException) -> str:
    """The line that says why: the first one, of a traceback the last."""
    lines = [line.strip() for line in str(failure).strip().splitlines() if line.strip()] or [type(failure).__name__]
    return lines[-1] if any(line.startswith("Traceback ") for line in lines) else lines[0]
