"""`ganpipe serve`: images as bytes, and refusals as JSON."""

import http.client
import json
import threading
import time

import numpy as np
import pytest

from ganlib.sampling import generate
from pipeline import serve
from tests.pipeline.test_forms import made

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export's own
RAW = {"Accept": serve.BYTES}


@pytest.fixture(scope="module")
def server():
    trained = made("dcgan", counts=(3, 0, 5))
    with serve.Server(serve.load(trained, 1.0), host="127.0.0.1", port=0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield trained, running.server_address[1]
        running.shutdown()
        thread.join()


def ask(port: int, body: object, headers: dict[str, str] | None = None, connection=None):
    connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", "/invocations", data, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_bytes_are_the_sample_stage_s_images_on_one_connection(server) -> None:
    """Kills: another shape, a rounding of its own, a connection that must be made anew."""
    trained, port = server
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for seed in range(3):
        status, headers, data = ask(port, {"inputs": [], "params": {"count": 5, "seed": seed}}, RAW, connection)
        assert (status, headers["X-Shape"], headers["Connection"]) == (200, "5,1,8,8", None)
        expected = generate(trained.network, trained.prior.seeded(seed, range(5)), batch_images=5)
        assert np.array_equal(np.frombuffer(data, np.uint8).reshape(5, 1, 8, 8), expected)


def test_latents_are_answered_as_json(server) -> None:
    trained, port = server
    inputs = trained.prior.seeded(3, range(2))
    rows = np.hstack([inputs.z.numpy(), inputs.labels.numpy()[:, None]]).tolist()
    status, _, data = ask(port, {"inputs": rows, "params": {"format": "uint8"}})
    assert (status, json.loads(data)["predictions"]) == (200, generate(trained.network, inputs, batch_images=2).tolist())


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b'{"inputs": [[NaN, 0, 0, 0, 0, 0, 0, 0, 2]]}', "row 0 has a number that is not finite"),
        (b'{"inputs": [[1e999, 0, 0, 0, 0, 0, 0, 0, 2]]}', "row 0 has a number that is not finite"),
        (b'{"inputs": [[0, 0, 0, 0, 0, 0, 0, 0, 2.5]]}', "2.5 in the last column is no class"),
        (b'{"inputs": [[{}, 0]]}', "expected rows of numbers"),
        (b'{"inputs": 3}', "expected"),
        ({"params": {"count": 2.5}}, "body.params.count=2.5: "),
        ({"params": {"count": -1}}, "body.params.count=-1: "),
        ({"params": {"cuont": 1}}, "body.params.cuont=1 is not a known key (did you mean 'count'?)"),
        ({"params": {"count": 1, "classes": ["dog"]}}, "'dog', which is no class; expected names or numbers of: 0 left, 2 all"),
        ({"params": {"count": 1, "truncation": "x"}}, "body.params.truncation='x': "),
        ({"params": {"count": 9_999_999}}, "9,999,999 images at once"),
        ({}, "neither latents nor params.count"),
        (b"[1]", "the body is no mapping"),
        (b"{", "the body is no JSON"),
    ],
)
def test_what_is_wrong_is_a_400_in_json(server, body, match: str) -> None:
    """Kills: a refusal that is a 500 or a connection that is cut, a type that is converted in silence."""
    status, _, data = ask(server[1], body, RAW)
    told = json.loads(data)
    assert (status, told["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert match in told["message"]


def test_other_paths_and_bodies_without_end(server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server[1], timeout=60)
    for method, path, headers, status in (
        ("GET", "/ping", {}, 200),
        ("GET", "/", {}, 404),
        ("POST", "/x", {}, 404),
        ("POST", "/invocations", {"Transfer-Encoding": "chunked"}, 411),
        ("POST", "/invocations", {"Content-Length": "99999999999"}, 413),
    ):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        assert (answer.status, answer.read() != b"") == (status, True)
        connection.close()


def test_a_port_that_is_taken_is_named(server) -> None:
    with pytest.raises(ValueError, match=f"--host 127.0.0.1 --port {server[1]}: .* in use; take another port"):
        serve.Server(serve.Generator(), host="127.0.0.1", port=server[1])


def test_clients_at_once_do_not_mix_and_one_that_leaves_stops_nobody(server) -> None:
    """Kills: an answer of another client's request, and a server that waits for a client that has gone."""
    trained, port = server
    found = {}

    def client(seed: int) -> None:
        found[seed] = ask(port, {"params": {"count": 3, "seed": seed}}, RAW)[2]

    gone = http.client.HTTPConnection("127.0.0.1", port)
    gone.putrequest("POST", "/invocations")
    gone.putheader("Content-Length", "100")
    gone.endheaders(b"{")
    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    for thread in threads:
        thread.join(deadline - time.monotonic())
    gone.close()
    for seed in range(8):
        assert found[seed] == generate(trained.network, trained.prior.seeded(seed, range(3)), batch_images=3).tobytes()
