"""The rim of every command: what a person reads of an error."""

import socket
import threading
from contextlib import closing
from http.client import HTTPConnection

import pytest

from pipeline import cli


def test_a_server_that_is_killed_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    """A real connection that is reset while its answer is waited for. Kills: "Connection reset by peer" alone, a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def reset() -> None:
            accepted, _ = listening.accept()
            accepted.recv(1)  # closed with the rest unread, which resets it
            accepted.close()

        thread = threading.Thread(target=reset)
        thread.start()

        def ask() -> None:
            with closing(HTTPConnection("127.0.0.1", listening.getsockname()[1], timeout=10)) as connection:
                connection.request("POST", "/", b"x" * 1000)
                connection.getresponse()

        with pytest.raises(SystemExit) as ended:
            cli.run(ask)
        thread.join()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: the connection to a server was lost (Connection reset by peer)")
    assert "run the same command again" in told
    assert told.count("\n") == 1


def test_what_the_system_says_of_a_file_names_it(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    """Kills: "No such file or directory" of nobody knows what."""
    with pytest.raises(SystemExit):
        cli.run(lambda: (tmp_path / "missing").open().close())
    assert str(tmp_path / "missing") in capsys.readouterr().err
