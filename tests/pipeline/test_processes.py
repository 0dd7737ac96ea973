"""A thread that gives way to the workers, and takes nobody with it."""

import os
import sys
import threading

import pytest

from pipeline import processes


def niceness_in_a_thread(monkeypatch, *, platform=sys.platform):
    """(of the thread, of the main one) after the thread has asked for 3 more than it had."""
    monkeypatch.setattr(sys, "platform", platform)
    had, found, problems = os.getpriority(os.PRIO_PROCESS, 0), [], []

    def work():
        try:
            processes.yield_to_others(min(19, had + 3))
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        except BaseException as problem:  # a thread's own would only be a warning
            problems.append(problem)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not problems
    return found[0] - had, os.getpriority(os.PRIO_PROCESS, 0) - had


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
@pytest.mark.skipif(
    os.getpriority(os.PRIO_PROCESS, 0) > 16, reason="this process gives way to everybody already: run it with less than nice -n 17"
)
def test_only_the_thread_that_asks_gives_way(monkeypatch):
    """Kills the priority of the whole process (that of pid 0, or of another thread)."""
    assert niceness_in_a_thread(monkeypatch) == (3, 0)


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
def test_where_it_would_be_the_whole_process_nothing_is_done(monkeypatch, platform):
    """Windows has no such call at all."""
    monkeypatch.delattr(os, "setpriority")
    assert niceness_in_a_thread(monkeypatch, platform=platform) == (0, 0)


def test_where_it_is_forbidden_the_work_goes_on(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    assert niceness_in_a_thread(monkeypatch) == (0, 0)
