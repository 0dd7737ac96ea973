"""The images of a seed without torch: against torch's own numbers and the network's own images."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ganlib import rng
from ganlib.sampling import Prior
from pipeline import export, forms, seeded
from tests.pipeline.test_export import FACTS
from tests.pipeline.test_forms import NAMES, made, translated

COUNTS = (3, 0, 5, 60_000)
SEEDS = (0, 1, 7, 123456, 2**32, 2**63 - 1)
HAS_VECTORS = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
APART = 5e-7 if HAS_VECTORS else 2.5e-6


def told(**changes) -> dict:
    return {
        "input": "words",
        "latents": {"dim": 8, "distribution": "normal"},
        "class_names": ["cat", "2", "dog", "owl"],
        "class_counts": list(COUNTS),
        "truncation": None,
    } | changes


@pytest.mark.parametrize("dim", [1, 2, 7, 8, 15, 16, 17, 31, 32, 40, 64, 100, 512])
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_the_numbers_are_torch_s(distribution: str, dim: int) -> None:
    """Kills: another key, the other half of it, the order of a pair, blocks of another size, a rest that is not drawn again."""
    prior = Prior(latent_dim=dim, distribution=distribution, class_counts=COUNTS)
    numbers = [*range(40), 999_999, 2**40]
    for seed in SEEDS:
        z, labels = prior.seeded(seed, numbers)
        x = seeded.rows(told(latents={"dim": dim, "distribution": distribution}), seed, numbers)
        assert (x.dtype, x.shape) == (np.float32, (len(numbers), dim + 1))
        assert np.array_equal(x[:, -1], labels)
        if distribution == "uniform" or dim < 16:
            assert np.array_equal(x[:, :-1], z)
        else:
            assert np.abs(x[:, :-1] - z.numpy()).max() <= APART


@pytest.mark.parametrize("counts", [(1,), (0, 1), (2**28 - 2, 1), (2**28 - 1, 1), (2**31, 2**31 + 5)])
def test_classes_are_drawn_as_torch_draws_them(counts: tuple[int, ...]) -> None:
    """Kills: 64 bits where torch takes 32, and the other way, the wrong one of two words first."""
    prior = Prior(latent_dim=1, distribution="normal", class_counts=counts)
    labels = prior.seeded(5, range(300)).labels
    assert labels is not None
    assert np.array_equal(seeded.drawn_classes(5, range(300), counts), labels)
    total = sum(counts)
    drawn = [int(torch.randint(total, (1,), generator=rng.keyed_rng(5, "sample label", i))) for i in range(300)]
    for end in (total // 3, total // 2):  # finer than the classes
        fine = seeded.drawn_classes(5, range(300), (end, total - end))
        assert np.array_equal(fine, [number >= end for number in drawn])


def test_classes_by_name_and_by_number_in_turn() -> None:
    """As a registered version takes them. Kills: a number that beats the name that it is."""
    x = seeded.rows(told(class_names=["0", "2", "1", "owl"]), 3, range(5), classes=["owl", 1])
    assert x[:, -1].tolist() == [3, 2, 3, 2, 3]
    prior = Prior(latent_dim=8, distribution="normal", class_counts=COUNTS)
    assert np.array_equal(x[:, :-1], prior.seeded(3, range(5)).z)


def test_what_cannot_be_drawn_is_said() -> None:
    for wrong in ("fox", 1, 4, -1, 2.5):
        with pytest.raises(ValueError, match=r"no class .*; expected names or numbers of: 0 cat, 2 dog, 3 owl"):
            seeded.rows(told(class_names=["cat", "rat", "dog", "owl"]), 0, [0], classes=[wrong])
    with pytest.raises(ValueError, match="it is told no class"):
        seeded.rows(told(class_names=[], class_counts=[]), 0, [0], classes=[0])
    for seed, number in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="expected whole numbers, 0 or more"):
            seeded.rows(told(), seed, [number])
    with pytest.raises(TypeError):
        seeded.rows(told(), 2.5, [0])
    with pytest.raises(ValueError, match="makes images of images"):
        seeded.rows(told(latents=None), 0, [0])
    assert seeded.rows(told(), 0, []).shape == (0, 9)


SCRIPT = """
import json, sys
for name in ("torch", "ganlib", "pipeline", "mlflow", "onnx"):
    sys.modules[name] = None  # importing it fails
sys.path.insert(0, sys.argv[1])
import numpy, onnxruntime, seeded
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx")
images = seeded.images(session, seed=11, numbers=range(3, 300), **json.loads(sys.argv[3]))
numpy.save(sys.argv[2], images)
"""


@pytest.mark.parametrize(
    ("family", "shape", "asked"),
    [
        ("dcgan", {"dim": 8}, {}),
        ("dcgan", {"dim": 40, "distribution": "uniform"}, {"classes": ["all", 0]}),
        ("mlp", {"dim": 20, "conditional": False}, {}),
        ("stylegan2", {"dim": 40}, {}),
        ("stylegan2", {"dim": 40}, {"truncation": 0.3}),
    ],
)
def test_an_export_gives_the_images_of_a_seed_with_numpy_and_onnxruntime_alone(
    family: str, shape: dict, asked: dict, tmp_path: Path
) -> None:
    """Against the network and `Prior`, in a process without torch and this project. Kills: seeded.py or the metadata missing, numbers that start
    again in each batch, a truncation that is not the built-in one or is not given on."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    trained = made(family, **shape)
    trained.facts.update(FACTS)
    built_in = 0.6 if family == "stylegan2" else 1.0
    out = tmp_path / "out"
    export.export(trained, out, kinds=["onnx"], truncation=built_in)
    assert "seeded.images(" in (out / export.CARD).read_text(encoding="utf-8")
    command = [sys.executable, "-I", "-c", SCRIPT, str(out), str(tmp_path / "images.npy"), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    z, labels = trained.prior.seeded(11, range(3, 300))
    if "classes" in asked:
        labels = torch.tensor([(NAMES.index("all"), 0)[row % 2] for row in range(297)])
    options = trained.options(asked.get("truncation", built_in))
    with torch.no_grad():
        expected = trained.network(z, *([] if labels is None else [labels]), **options).numpy()
    found = np.load(tmp_path / "images.npy")
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    assert np.abs(found - expected).max() <= forms.TOLERANCES[forms.ONNX]


def test_truncation_without_styles_is_refused_and_a_network_of_images_has_no_seed(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    forms.write_onnx(made("mlp"), 1.0, tmp_path / "mlp.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "mlp.onnx")
    with pytest.raises(ValueError, match="no styles to truncate"):
        seeded.images(session, 0, [0], truncation=0.5)
    assert seeded.images(session, 0, []).shape == (0, 1, 8, 8)
    forms.write_onnx(translated("srresnet"), 1.0, tmp_path / "images.onnx")
    with pytest.raises(ValueError, match="makes images of images"):
        seeded.images(onnxruntime.InferenceSession(tmp_path / "images.onnx"), 0, [0])


def test_an_export_whose_seeds_differ_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kills: parity of the graph alone, fed with torch's numbers."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    own = seeded.latents
    monkeypatch.setattr(seeded, "latents", lambda seed, numbers, **prior: own(seed + 1, numbers, **prior))
    with pytest.raises(ValueError, match=r"model\.onnx of mlp differs from the network"):
        forms.write_onnx(made("mlp"), 1.0, tmp_path / forms.ONNX)
