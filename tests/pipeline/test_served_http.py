"""A version behind MLflow's own scoring server: what is asked as JSON, and what is answered."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.generate_throughput import default
from ganlib.sampling import generate
from pipeline import forms
from pipeline.generator import TrainedGenerator
from pipeline.tracking.flavor import Flavor
from tests.pipeline.test_forms import made

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # MLflow's own


def saved(trained: TrainedGenerator, folder: Path, *, strength: float | None = None) -> Path:
    """A generator as MLflow has it; `strength`: of its mark."""
    import mlflow

    example, generator = forms.example(trained, 4), trained.served(1.0)
    with torch.no_grad():
        output = generator(example).numpy()
    told = forms.interface(trained, 1.0, strength=strength)
    flavor = Flavor(store=SimpleNamespace(mlflow=mlflow), generator=generator, example=example.numpy(), output=output, interface=told)
    flavor.save_model(path=str(folder), mlflow_model=mlflow.models.Model(), pip_requirements=["torch"])
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A generator with classes and its address."""
    import mlflow
    import uvicorn
    from mlflow.pyfunc import scoring_server

    trained = made("dcgan", counts=(3, 0, 5))
    folder = saved(trained, tmp_path_factory.mktemp("model") / "model")
    assert not [path for path in folder.rglob("*") if path.suffix == ".pkl"]
    app = scoring_server.init(mlflow.pyfunc.load_model(str(folder)))
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.05)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield trained, f"http://127.0.0.1:{port}/invocations"
    running.should_exit = True
    thread.join()


def ask(address: str, text: str) -> tuple[int, dict]:
    """Status and JSON of a body; a number that is not JSON's is an error here."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    request = urllib.request.Request(address, text.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read(), parse_constant=refuse)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read(), parse_constant=refuse)


def test_latents_and_requests_are_answered(server) -> None:
    trained, address = server
    inputs = trained.prior.seeded(3, range(5))
    expected = generate(trained.network, inputs, batch_images=5)
    status, found = ask(address, json.dumps({"inputs": [], "params": {"count": 5, "seed": 3, "format": "bytes"}}))
    assert status == 200
    told = found["predictions"]
    assert np.array_equal(np.frombuffer(base64.b64decode(told["data"]), np.uint8).reshape(told["shape"]), expected)
    rows = np.hstack([inputs.z.numpy(), inputs.labels.numpy()[:, None]]).tolist()
    status, found = ask(address, json.dumps({"inputs": rows}))
    assert status == 200
    assert np.abs((np.array(found["predictions"]) + 1) * 127.5 - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"inputs": [[NaN, 0, 0, 0, 0, 0, 0, 0, 2]]}', "row 0 has a number that is not finite"),
        ('{"inputs": [[1e999, 0, 0, 0, 0, 0, 0, 0, 2]]}', "row 0 has a number that is not finite"),
        ('{"inputs": [[0, 0, 0, 0, 0, 0, 0, 0, 2.5]]}', "2.5 in the last column is no class"),
        ('{"inputs": [], "params": {"count": 2.5}}', "count"),
        (
            '{"inputs": [], "params": {"count": 1, "classes": ["dog"]}}',
            "'dog', which is no class; expected names or numbers of: 0 left, 2 all",
        ),
        ('{"inputs": [], "params": {"count": 9999999}}', "9,999,999 images at once"),
        ('{"inputs": []}', "neither latents nor params.count"),
    ],
)
def test_what_is_wrong_is_a_400_in_json(server, text: str, match: str) -> None:
    """Kills: NaN that is answered with 200 and a body that is not JSON, and a refusal that is a 500."""
    status, found = ask(server[1], text)
    assert (status, found["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert match in found["message"]


REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ganlib", "pipeline", "benchmarks"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
"""


def test_the_readme_s_example_loads_a_champion(tmp_path: Path) -> None:
    """Its very lines, on a registry with a default network, where this project cannot be imported. Kills: an example that has not kept up."""
    import mlflow

    trained, name, uri = default(), "gan-fashion-mnist", f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model(name)
    client.create_model_version(name, source=str(saved(trained, tmp_path / "model")))
    client.set_registered_model_alias(name, "champion", "1")
    told = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8").partition("## Loading the model")[2]
    load, ask_for = re.findall(r"```python\n(.*?)```", told, re.DOTALL)[:2]
    asked = next(line for line in ask_for.splitlines() if "classes" not in line)  # this one is told no class
    lines = load.replace("sqlite:////path/to/project/mlflow.db", uri)
    script = f"{REFUSE}{lines}first = images\n{asked}\nnp.savez('out.npz', first=first, asked=images)\n"
    assert (script.count("load_model"), script.count("predict")) == (1, 2)
    elsewhere = ("PYTHONPATH", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")  # MLflow leaves these behind when it is pointed somewhere
    environment = {key: value for key, value in os.environ.items() if key not in elsewhere}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.load(tmp_path / "out.npz")
    assert (found["first"].shape, found["first"].dtype) == ((16, 1, 28, 28), np.float32)
    assert np.abs(found["first"]).max() <= 1
    with torch.no_grad():
        expected = trained.network(*trained.prior.seeded(3, range(16))).numpy()
    assert np.allclose(found["asked"], expected, atol=1e-5)
