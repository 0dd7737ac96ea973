"""What is handed out says that it is synthetic, and `ganpipe detect` reads it back."""

import base64
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from ganlib.marks import detection, embedding
from ganlib.sample_settings import DrawConfig
from ganlib.samples import encode_png
from pipeline import credentials, detect, generate, mark, serve
from pipeline.bulk import Bulk
from pipeline.credentials import Credentials
from pipeline.mark import PixelMark
from pipeline.tracking import serving
from tests.ganlib.test_marks import textures
from tests.pipeline.test_forms import made
from tests.pipeline.test_served_http import saved


def chain(folder: Path, name: str = "ours") -> Credentials:
    """A root and an end entity of P-256, as C2PA asks for them (C2PA 2.1, section 14.5.1), with files for the environment."""
    now = datetime.datetime.now(datetime.UTC)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def called(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"), x509.NameAttribute(NameOID.COMMON_NAME, common)])

    def certificate(subject: str, public, *, is_root: bool) -> bytes:
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
        )
        built = (
            x509.CertificateBuilder(called("root"), called(subject), public, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
            .add_extension(x509.KeyUsage(digital_signature=not is_root, key_cert_sign=is_root, crl_sign=is_root, **usage), critical=True)
        )
        if not is_root:
            built = built.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        return built.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    told = Credentials(
        certificates=certificate(name, key.public_key(), is_root=False) + certificate("root", root_key.public_key(), is_root=True),
        private_key=pem,
    )
    (folder / f"{name}.pem").write_bytes(told.certificates)
    (folder / f"{name}.key").write_bytes(pem)
    return told


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch) -> None:
    for name in (credentials.CERTIFICATE, credentials.PRIVATE_KEY, mark.KEY):
        monkeypatch.delenv(name, raising=False)


def run(module, monkeypatch, capsys, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["ganpipe", *map(str, arguments)])
    module.main()
    return capsys.readouterr().out


def test_a_file_is_signed_and_says_what_made_it(tmp_path: Path) -> None:
    """Kills: a thumbnail of 30 KB, a claim without the source type, and one that is called valid after its pixels were changed."""
    pytest.importorskip("c2pa")
    keys, png = chain(tmp_path), encode_png(textures(1, 28)[0])
    signed = credentials.sign_png(keys, png, model="gan-digits", version="3", title="a.png")
    assert len(signed) - len(png) < 5_000
    claim = credentials.read("image/png", signed)
    assert claim == credentials.Claim(is_valid=True, is_synthetic=True, model="gan-digits 3", signer="ours, Tests")
    assert keys.private_key not in signed
    assert credentials.read("image/png", png) is None
    place = signed.rindex(b"IDAT") + 12
    changed = credentials.read("image/png", signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :])
    assert changed is None or not changed.is_valid


def test_a_manifest_is_signed_beside_it(tmp_path: Path) -> None:
    """Kills: a signature that fits any bytes, or any key."""
    keys = chain(tmp_path)
    signature = credentials.sign(keys, b"manifest")
    assert credentials.signer_of(b"manifest", signature) == "CN=ours,O=Tests"
    assert credentials.signer_of(b"manifesto", signature) is None
    assert credentials.signer_of(b"manifest", b"{}") is None
    forged = json.loads(signature) | {"certificates": chain(tmp_path, "theirs").certificates.decode()}
    assert credentials.signer_of(b"manifest", json.dumps(forged).encode()) is None
    assert keys.private_key.decode()[30:60] not in signature.decode()


def test_keys_come_from_the_environment(tmp_path: Path, monkeypatch) -> None:
    """Paths or texts. Kills: one variable taken for both, a key of another certificate, a message that shows a key."""
    keys, others = chain(tmp_path), chain(tmp_path, "theirs")
    assert credentials.from_environment() is None
    monkeypatch.setenv(credentials.CERTIFICATE, str(tmp_path / "ours.pem"))
    with pytest.raises(ValueError, match="GANPIPE_C2PA_KEY is not set, but GANPIPE_C2PA_CERTIFICATE is"):
        credentials.from_environment()
    monkeypatch.setenv(credentials.PRIVATE_KEY, str(tmp_path / "ours.key"))
    assert credentials.from_environment() == keys
    assert "BEGIN PRIVATE" not in repr(keys)
    monkeypatch.setenv(credentials.PRIVATE_KEY, keys.private_key.decode())
    assert credentials.from_environment() == keys
    for wrong in (others.private_key.decode(), "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n"):
        monkeypatch.setenv(credentials.PRIVATE_KEY, wrong)
        with pytest.raises(ValueError, match="do not sign: expected a PEM chain and its P-256 key") as refused:
            credentials.from_environment()
        assert wrong.splitlines()[1] not in str(refused.value)
    monkeypatch.setenv(credentials.PRIVATE_KEY, str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"GANPIPE_C2PA_KEY is no file that can be read \(No such file"):
        credentials.from_environment()


def test_a_grid_is_marked_signed_and_found(tmp_path: Path, monkeypatch, capsys) -> None:
    """Kills: a mark that the signature covers before it is there, text of the picture that is lost, a mark that another key finds."""
    pytest.importorskip("c2pa")
    chain(tmp_path)
    monkeypatch.setenv(credentials.CERTIFICATE, str(tmp_path / "ours.pem"))
    monkeypatch.setenv(credentials.PRIVATE_KEY, str(tmp_path / "ours.key"))
    monkeypatch.setenv(mark.KEY, "a secret")
    (tmp_path / "grid.png").write_bytes(encode_png(textures(1, 256)[0]))
    run(mark, monkeypatch, capsys, tmp_path / "grid.png", "--out", tmp_path / "out", "--model", "gan-digits")
    with Image.open(tmp_path / "out" / "grid.png") as image:
        assert image.info["Notice"] == "synthetic image, made by a generative model"
    said = run(detect, monkeypatch, capsys, tmp_path / "out")
    assert "grid.png: marked, p = " in said
    assert "; says that it is synthetic, unsigned; C2PA: synthetic, made by gan-digits unknown, signed by ours, Tests\n" in said
    assert "key of GANPIPE_MARK_KEY: 1 of 1 images have a p-value below 0.001 alone; chance makes 0.001" in said
    assert "a secret" not in said
    monkeypatch.setenv(mark.KEY, "another")
    assert "grid.png: no mark found, p = " in run(detect, monkeypatch, capsys, tmp_path / "out")


@pytest.mark.parametrize("form", ["png", "parquet"])
def test_a_bulk_export_is_marked_and_its_manifest_signed(form: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """Kills: a key in job.json, parts of which only some are marked, a manifest that was changed after it was signed."""
    trained = made("dcgan", conditional=False, size=32)
    trained.facts["sha256"] = "a" * 64
    config = DrawConfig(num_images=64, batch_images=16, format=form)
    wanted = Bulk(trained=trained, config=config, out=str(tmp_path / "out"), part_images=32, mark=PixelMark(strength=3.0, key="a secret"))
    generate.generate(wanted, keys=chain(tmp_path))
    assert generate.verify(str(tmp_path / "out")) == []
    assert not [file for file in (tmp_path / "out").rglob("*.json") if "a secret" in file.read_text()]
    monkeypatch.setenv(mark.KEY, "a secret")
    found = json.loads(run(detect, monkeypatch, capsys, tmp_path / "out", "--json"))
    assert len(found["images"]) == 64
    [together] = found["together"]
    assert (together["images"], together["p_value"] < 1e-3) == (64, True)
    assert list(found["manifests"].values()) == ["CN=ours,O=Tests"]
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("64", "65"))
    assert "the signature beside it is not of these bytes" in run(detect, monkeypatch, capsys, tmp_path / "out")
    with pytest.raises(ValueError, match="holds the parts of another job"):
        generate.generate(Bulk(trained=trained, config=config, out=str(tmp_path / "out"), part_images=32))


def test_a_server_marks_pictures_and_not_numbers() -> None:
    """Kills: a mark on what is computed with, one of the PNG alone, answers that differ from one request to the next."""
    model = serve.load(made("dcgan", conditional=False, size=32), 1.0)
    bare = {form: model.predict(None, None, {"count": 64, "format": form}) for form in ("float32", "uint8")}
    model.mark = PixelMark(strength=3.0, key="ours").on
    assert np.array_equal(model.predict(None, None, {"count": 64}), bare["float32"])
    marked = model.predict(None, None, {"count": 64, "format": "uint8"})
    assert np.sqrt(((marked.astype(float) - bare["uint8"]) ** 2).mean()) == pytest.approx(3.0, rel=0.1)
    assert detection.detect(marked, key="ours")[1].p_value < 1e-3
    assert detection.detect(bare["uint8"], key="ours")[1].p_value > 1e-3
    told = model.predict(None, None, {"count": 64, "format": "bytes"})
    assert base64.b64decode(told["data"]) == marked.tobytes()


ELSEWHERE = """
import os, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ganlib", "pipeline", "scipy", "pydantic_settings", "ray", "dvc", "safetensors"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import mlflow, numpy as np
for key in ("", "a secret"):
    os.environ[sys.argv[1]] = key
    model = mlflow.pyfunc.load_model("model")
    asked = {form: model.predict(None, params={"count": 64, "format": form}) for form in ("float32", "uint8", "png", "bytes")}
    np.savez(f"{key}.npz", **asked | {"bytes": asked["bytes"]["data"]})
"""


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")  # MLflow's own
@pytest.mark.parametrize("strength", [3.5, None])
def test_a_registered_version_marks_where_it_is_given_the_key(tmp_path: Path, strength: float | None) -> None:
    """Loaded by MLflow in a process that cannot import this project, with the strength of its registration; the default where it says none. Kills: a
    version that lacks the code of the mark, marks of another key or in what is computed with, a mark where there is no key, one strength for all."""
    saved(made("dcgan", conditional=False, size=32), tmp_path / "model", strength=strength)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, mark.KEY]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    bare, marked = (np.load(tmp_path / f"{key}.npz") for key in ("", "a secret"))
    assert np.array_equal(marked["float32"], bare["float32"])
    assert np.array_equal(bare["uint8"], np.clip(np.rint((bare["float32"] + 1) * 127.5), 0, 255))
    assert np.array_equal(marked["uint8"], PixelMark(strength=strength or 2.0, key="a secret").on(bare["uint8"]))
    assert base64.b64decode(str(marked["bytes"])) == marked["uint8"].tobytes()
    (tmp_path / "got").mkdir()
    for number, text in enumerate(marked["png"]):
        (tmp_path / "got" / f"{number}.png").write_bytes(base64.b64decode(str(text)))
    for key, is_found in (("a secret", True), ("another", False)):
        found = detect.detect(*detect.found_in([tmp_path / "got"]), key=key, crops=False)
        assert (found["together"][0]["p_value"] < detection.FOUND) is is_found


def test_a_version_of_small_images_says_that_it_does_not_mark(caplog) -> None:
    """Kills: 8x8 images with a mark that nobody could find."""
    code = Path(embedding.__file__)
    assert serving.marking(code, "a secret", [1, 8, 8], None) is None
    assert "not marked: images of 8x8 are too small" in caplog.text
    assert serving.marking(code, "a secret", [1, 16, 16], None) is not None


def test_careless_use_of_detect(tmp_path: Path, monkeypatch, capsys) -> None:
    """Kills: a traceback for a file that is no image, one broken file of many that ends it all, thousands of lines."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.png").write_text("no image")
    for place, words in (
        ("none.png", "no such file or folder"),
        ("empty", "holds no images; expected files like"),
        ("words.png", "no image that can"),
    ):
        with pytest.raises(ValueError, match=words):
            run(detect, monkeypatch, capsys, tmp_path / place)
    folder = tmp_path / "many"
    folder.mkdir()
    for number, image in enumerate(textures(70, 32)):
        (folder / f"{number:03d}.png").write_bytes(encode_png(image))
    (folder / "broken.png").write_bytes((folder / "000.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no image, and nobody asked")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "tiny.jpg")
    said = run(detect, monkeypatch, capsys, folder).splitlines()
    assert len(said) == 40 + 1 + 2 + 1 + 1
    assert "... and 30 more (--json has all)" in said
    assert f"{folder / 'broken.png'}: left out, no image that can be read to its end" in said
    assert f"{folder / 'tiny.jpg'}: left out, images of 4x4 are too small to look for a mark; expected 8 pixels a side at least" in said
    assert said[-2].startswith("70 images of 32x32, 1 channel together: no mark found")


def test_what_is_too_small_is_said(capsys) -> None:
    assert mark.pixel_mark(8, 8) is None
    assert "not marked: images of 8x8 are too small" in capsys.readouterr().err
    assert mark.pixel_mark(28, 28) == PixelMark(strength=2.0, key="ganpipe")


def test_a_mark_that_will_not_be_found_alone_is_said(tmp_path: Path, monkeypatch, capsys) -> None:
    for name, size in (("small.png", 28), ("large.png", 256)):
        (tmp_path / name).write_bytes(encode_png(textures(1, size)[0]))
    monkeypatch.setattr(sys, "argv", ["ganpipe", str(tmp_path / "small.png"), str(tmp_path / "large.png"), "--out", str(tmp_path / "out")])
    mark.main()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "proves nothing" in line]
    assert line.startswith(f"{tmp_path / 'small.png'}: marked, and so small that the mark alone proves nothing (p = ")
