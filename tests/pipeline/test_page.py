"""The page with a generator in it, as Chromium runs it without a network."""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganlib import sampling
from ganlib.sampling import Prior
from pipeline import detect, page
from pipeline.params import CODE
from tests import browser
from tests.pipeline.test_forms import NAMES, made, translated
from tests.pipeline.test_seeded import APART

ASKED = [("0", "1"), ("7", "12"), ("007", "0"), ("123456789012", "999999")]
LOADED = """
const said = () => document.getElementById("said"), wait = ms => new Promise(done => setTimeout(done, ms));
while (!said() || said().textContent.startsWith("Loading")) await wait(50);
"""
SCRIPT = """
const pixels = () => [...document.getElementById("shown").getContext("2d").getImageData(0, 0, 32, 32).data];
const first = pixels();
const slider = document.querySelector(".direction");
slider.value = 3;
await slider.oninput();
const slid = pixels();
document.getElementById("straight").onclick();
await wait(300);
const back = pixels();
const chosen = document.getElementById("class");
chosen.value = chosen.options[0].textContent.endsWith("all") ? "0" : "2";
await chosen.oninput();
const loaded = performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !/^(blob|data):/.test(name));
const classed = pixels(), fields = ["seed", "number"].map(id => document.getElementById(id)), asked = [];
const ask = async (field, text) => { fields[field].value = text; await fields[field].oninput(); };
chosen.value = "";
for (const [seed, number] of ASKED) {
  await ask(0, seed);
  await ask(1, number);
  asked.push({seed, number, pixels: pixels(), values: [...await run(row(), 1)], drawn: chosen.options[0].textContent});
}
await document.getElementById("next").onclick();
const next = {number: fields[1].value, pixels: pixels()};
const kept = [];
for (const text of ["", "-1", "2.5", "1e3", "x"]) {
  await ask(1, text);
  kept.push([fields[1].matches(":invalid"), JSON.stringify(pixels()) === JSON.stringify(next.pixels)]);
}
return {asked, next, kept, words: said().textContent, found: JSON.parse(said().dataset.found), first, slid, back, classed, loaded,
  classes: [...chosen.options].map(option => option.value), sliders: document.querySelectorAll(".direction").length};
"""
LATENTS = """
return ASKED.map(([seed, number, dim, uniform, counts]) => [drawnClass(seed, number, counts), ...latents(seed, number, dim, uniform)]);
"""


# sha512 of the archive, as npm's package locks have it
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-web: the one at hand, or npm's, which keeps it in its own cache."""
    folder, named = CODE / "node_modules" / page.PACKAGE, f"{page.PACKAGE}@{page.RUNTIME}"
    if folder.is_dir():
        return page.runtime(folder)
    if shutil.which("npm") is None:
        pytest.skip(f"no npm to fetch {named} with (apt-get install npm)")
    fetched = tmp_path_factory.mktemp("npm")
    npm = subprocess.run(
        ["npm", "pack", named, "--pack-destination", str(fetched)], cwd=fetched, capture_output=True, text=True, timeout=300
    )
    if npm.returncode:
        pytest.skip(f"npm pack {named}: {npm.stderr.strip().splitlines()[-1:]}")
    (archive,) = fetched.glob("*.tgz")
    assert base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == INTEGRITY
    with tarfile.open(archive) as packed:
        packed.extractall(fetched, filter="data")
    return page.runtime(fetched / "package")


def evaluated(file: Path, script: str, asked: list) -> tuple:
    """What `script` returns once the page has said what it is."""
    return browser.evaluated(file, f"{LOADED} const ASKED = {json.dumps(asked)}; {script}")


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("family", ["dcgan", pytest.param("stylegan2", marks=pytest.mark.slow)])
def test_a_page_makes_the_network_s_images_where_there_is_no_network(family: str, runtime: Path, tmp_path: Path) -> None:
    """Chromium compares. Kills: a runtime that is fetched, classes or sliders that do nothing, a download that does not say what it is, a seed
    or number that gives another image than everywhere else, controls that reach beyond a phone."""
    pytest.importorskip("onnxscript")
    trained = made(family, size=32)
    (tmp_path / "page.html").write_text(page.render(trained, name="<digits>", folder=runtime), encoding="utf-8")
    seen, errors = evaluated(tmp_path / "page.html", SCRIPT, ASKED)
    assert errors == []
    assert seen["loaded"] == []
    assert seen["found"]["difference"] <= 1e-4
    assert seen["words"].startswith("As the trained network to ")
    assert seen["found"]["milliseconds"] > 0
    assert (seen["classes"], seen["sliders"]) == (["", "0", "2"], 6)
    assert seen["first"] == seen["back"]
    assert seen["first"] != seen["slid"]
    assert seen["back"] != seen["classed"]
    for asked in seen["asked"]:
        inputs = trained.prior.seeded(int(asked["seed"]), [int(asked["number"])])
        assert inputs.labels is not None
        with torch.no_grad():
            expected = trained.network(*inputs)
        assert np.abs(np.array(asked["values"]) - expected.numpy().ravel()).max() <= 1e-4
        assert asked["drawn"] == f"As drawn: {NAMES[int(inputs.labels)]}"
        shown, levels = np.array(asked["pixels"]).reshape(32, 32, 4), sampling.to_uint8(expected)[0, 0].astype(int)
        assert np.abs(shown[..., :3] - levels[..., None]).max() <= 1  # a value between two levels
    assert seen["next"]["number"] == "1000000"
    following = sampling.generate(trained.network, trained.prior.seeded(int(ASKED[-1][0]), [1_000_000]), batch_images=1)
    assert np.abs(np.array(seen["next"]["pixels"]).reshape(32, 32, 4)[..., 0] - following[0, 0].astype(int)).max() <= 1
    assert seen["kept"] == [[True, True]] * 5
    views, _ = browser.look(tmp_path / "page.html", widths=(320, 390, 1200), scheme="dark")
    assert [(view.overflow, view.outside) for view in views] == [(0, [])] * 3
    (tmp_path / "saved.png").write_bytes(base64.b64decode(seen["found"]["png"]))
    assert detect.Item(name="saved", file=tmp_path / "saved.png").label()
    with Image.open(io.BytesIO(base64.b64decode(seen["found"]["png"]))) as image:
        image.load()
        assert image.size == (32, 32)
        assert image.info["Notice"] == "synthetic image, made by a generative model"
        assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium")
def test_a_page_says_when_it_is_not_as_the_network(runtime: Path, tmp_path: Path) -> None:
    """Kills: a comparison that nothing fails."""
    pytest.importorskip("onnxscript")
    text = page.render(made("mlp", size=32), name="digits", folder=runtime)
    told = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    others = (np.frombuffer(base64.b64decode(told["expected"]), np.float32) + np.float32(1e-3)).tobytes()
    (tmp_path / "page.html").write_text(text.replace(told["expected"], base64.b64encode(others).decode()), encoding="utf-8")
    seen, _ = evaluated(tmp_path / "page.html", SCRIPT, ASKED)
    assert seen["words"].startswith("NOT as the trained network to 1.0e-3 of 2")


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium")
def test_a_page_draws_torch_s_numbers(runtime: Path, tmp_path: Path) -> None:
    """Kills: a rest of a block that is not drawn again, a generator that is seeded anew after 624 words, classes of 32 bits where torch takes 64."""
    pytest.importorskip("onnxscript")
    (tmp_path / "page.html").write_text(page.render(made("mlp", conditional=False), name="digits", folder=runtime), encoding="utf-8")
    asked = [
        (seed, number, dim, is_uniform, counts)
        for seed in (0, 5, 10**17)
        for number in (0, 3, 10**12)
        for dim in (1, 7, 15, 16, 17, 40, 64, 1000)
        for is_uniform in (False, True)
        for counts in ((1,), (3, 0, 5, 60_000), (2**27, 2**27 + 1), (2**31, 2**31 + 5))
    ]
    seen, errors = evaluated(tmp_path / "page.html", LATENTS, [(str(seed), str(number), *rest) for seed, number, *rest in asked])
    assert errors == []
    for (seed, number, dim, is_uniform, counts), (label, *z) in zip(asked, seen, strict=True):
        prior = Prior(latent_dim=dim, distribution="uniform" if is_uniform else "normal", class_counts=counts)
        expected = prior.seeded(seed, [number])
        assert expected.labels is not None
        assert label == int(expected.labels)
        apart = np.abs(np.array(z, np.float32) - expected.z.numpy()[0]).max()
        assert apart <= (0 if is_uniform or dim < 16 else APART)


def test_directions_change_what_they_are_said_to() -> None:
    """Against images made here. Kills: steps of another scale, levels of one side, directions in the order of the least change."""
    trained = made("dcgan", conditional=False, size=32)
    steps, levels = page.measured_directions(trained, 1.0)
    z = trained.prior.seeded(0, range(page.SAMPLES)).z
    assert ((z @ steps.T) / steps.square().sum(dim=1)).std(dim=0) == pytest.approx(torch.ones(6), rel=0.05)
    with torch.no_grad():
        ends = [sampling.to_uint8(trained.network(z[:8] + side * steps[0])).astype(float) for side in (-3, 3)]
    assert levels[0] == pytest.approx(np.abs(ends[0] - ends[1]).mean())
    assert levels[0] > levels[-1]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no onnxruntime-web: run `npm install onnxruntime-web@1\.30\.0` here, or give its folder"):
        page.runtime(tmp_path)
    for name in (page.CODE, page.WASM):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "package.json").write_text('{"version": "1.29.0"}')
    with pytest.raises(ValueError, match=r"is onnxruntime-web 1\.29\.0, expected 1\.30\.0"):
        page.runtime(tmp_path)
    with pytest.raises(ValueError, match="makes images of images"):
        page.render(translated("srresnet"), name="x", folder=tmp_path)
