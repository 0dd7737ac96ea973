"""`make setup` by uv installs what pip's own settings say, and pip stands in where uv cannot."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("install", ROOT / "infra" / "install.py")
assert spec is not None
assert spec.loader is not None
install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install)


def environment(**changes: str) -> dict[str, str]:
    """This one without pip's and uv's variables; PIP_CONFIG_FILE=os.devnull leaves out the files as well."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
    return keep | {"PIP_CONFIG_FILE": os.devnull} | changes


@pytest.fixture
def links(tmp_path) -> Path:
    """A folder with one wheel that no index has."""
    folder, info = tmp_path / "links", "nowhere_else-1.0.dist-info"
    folder.mkdir()
    with zipfile.ZipFile(folder / "nowhere_else-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("nowhere_else.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: nowhere-else\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"nowhere_else.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return folder


def test_settings_are_those_that_pip_itself_would_take(tmp_path):
    """Kills: [global] before [install], files before the environment, settings of other commands."""
    path = tmp_path / "pip.conf"
    sections = {
        "global": "index-url = https://a/simple\nretries = 3",
        "install": "index-url = https://b/simple\ntrusted-host = b",
        "wheel": "no-index = 1",
    }
    path.write_text("\n".join(f"[{name}]\n{text}" for name, text in sections.items()))
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment(PIP_CONFIG_FILE=str(path), PIP_TRUSTED_HOST="c")
    )
    found = install.pip_settings(done.stdout)
    assert {name: found.get(name) for name in ("index-url", "trusted-host", "retries", "no-index")} == {
        "index-url": "https://b/simple",
        "trusted-host": "c",
        "retries": "3",
        "no-index": None,
    }


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("index-url", "https://user:word@a/simple", {"UV_DEFAULT_INDEX": "https://user:word@a/simple"}),
        ("extra-index-url", "https://a/simple\nhttps://b/simple", {"UV_INDEX": "https://a/simple https://b/simple"}),
        ("find-links", "/a /b", {"UV_FIND_LINKS": "/a,/b"}),
        ("no-index", "Yes", {"UV_NO_INDEX": "true"}),
        ("no-cache-dir", "0", {"UV_NO_CACHE": "false"}),
        ("constraint", "/a.txt", {"UV_CONSTRAINT": "/a.txt"}),
        ("trusted-host", "a b", {"UV_INSECURE_HOST": "a b"}),
        ("cert", "/a.pem", {"SSL_CERT_FILE": "/a.pem"}),
        ("proxy", "http://a:3128", {"ALL_PROXY": "http://a:3128"}),
        ("progress-bar", "off", {}),
    ],
)
def test_each_setting_in_uvs_words(name, value, told):
    assert install.uv_environment({name: value}) == {"UV_INDEX_STRATEGY": "unsafe-best-match"} | told


def test_a_setting_without_a_translation_is_pips_own_business():
    with pytest.raises(ValueError, match="pip's setting only-binary has no translation"):
        install.uv_environment({"only-binary": ":all:"})


def test_uv_finds_what_only_pips_settings_name(links, tmp_path):
    if importlib.util.find_spec("uv") is None:
        pytest.skip("uv could not be had when this environment was made")
    told = install.uv_environment({"find-links": str(links), "no-index": "1"})
    command = [sys.executable, "-m", "uv", "pip", "install", "--offline", "--quiet", "--target", str(tmp_path / "site"), "nowhere-else"]
    done = subprocess.run(command, env=environment(**told), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "nowhere_else.py").exists()


def test_pip_stands_in_where_uv_cannot_be_had(links, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    (tmp_path / "wanted.txt").write_text("nowhere-else==1.0\n")
    done = subprocess.run(
        [str(python), str(ROOT / "infra" / "install.py"), str(tmp_path / "wanted.txt")],
        env=environment(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(links)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "without uv, which would be faster" in done.stderr
    assert subprocess.run([str(python), "-c", "import nowhere_else"]).returncode == 0
    (tmp_path / "wanted.txt").write_text("not-there-at-all==1.0\n")
    command = [str(python), str(ROOT / "infra" / "install.py"), str(tmp_path / "wanted.txt")]
    assert subprocess.run(command, env=environment(PIP_NO_INDEX="1"), capture_output=True).returncode != 0


@pytest.mark.parametrize("home", ["/proc/nowhere", "there"])
def test_uv_keeps_no_cache_where_its_folder_cannot_be_made(home, tmp_path):
    """A container's HOME that does not exist: uv would stop, and pip cannot build wheels there. Kills: the folder is only looked for, not made."""
    found = install.cache_settings({"XDG_CACHE_HOME": str(tmp_path / home / "deeper")})
    assert found == ({"UV_NO_CACHE": "true"} if home.startswith("/") else {})
