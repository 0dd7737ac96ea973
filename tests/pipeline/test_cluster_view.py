"""Nothing of ours asks anything of Ray after its shutdown: Ray's core would end the process there, with exit code 1 and before our error is said."""

import threading
import time

import pytest

from pipeline.driver.ray_cluster import ClusterView


class SlowView(ClusterView):
    """Looks for a while, at nothing."""

    def __init__(self) -> None:
        self._is_over, self._wake = threading.Event(), threading.Event()
        self._seen, self._trouble = 0.0, ""
        self.has_begun, self.looks = threading.Event(), 0

    def _look(self) -> None:
        self.has_begun.set()
        time.sleep(0.3)
        self.looks += 1


def test_a_look_that_has_begun_is_waited_for_when_the_training_fails() -> None:
    """Kills a view that is left while it looks at the cluster, as when the store of the state went away."""
    view = SlowView()

    def fail() -> None:
        with view:
            assert view.has_begun.wait(10)
            raise OSError("the store is away")

    with pytest.raises(OSError, match="the store is away"):
        fail()
    assert view.looks == 1
    time.sleep(0.4)
    assert view.looks == 1
