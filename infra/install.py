"""`make setup`: `python infra/install.py FILE ...` installs requirement files into the environment that this runs in: by uv, else by pip.

uv is fast but reads nothing of pip's settings (environment variables, pip.conf), which name the indexes here. So they are handed to it in its own
words, and where one of them is a setting that is not known here, or uv cannot be had, or fails, pip does the work.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

UV = "uv==0.13.9"
# pip's setting -> uv's environment variable. An environment variable, unlike an option, shows an index's password to nobody.
TRANSLATED = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "no-cache-dir": "UV_NO_CACHE",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}
WORDS = {"1": "true", "yes": "true", "on": "true", "0": "false", "no": "false", "off": "false"}
# What does not change which files are installed.
NO_MATTER = frozenset(
    {
        "break-system-packages",
        "cache-dir",
        "config-file",
        "disable-pip-version-check",
        "log",
        "no-color",
        "no-input",
        "no-warn-script-location",
        "prefer-binary",
        "progress-bar",
        "quiet",
        "require-virtualenv",
        "retries",
        "root-user-action",
        "verbose",
    }
)


def pip_settings(listed: str) -> dict[str, str]:
    """`pip config list` -> the settings that hold for `pip install`: the environment's before the command's own before the files' [global]."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        place, _, value = line.partition("=")
        section, _, name = place.rpartition(".")
        if section in found and (text := str(ast.literal_eval(value))):  # to pip an empty variable is none
            found[section][name] = text
    return found["global"] | found["install"] | found[":env:"]


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """What uv must be told so that it does what pip with `settings` would.

    Raises:
        ValueError: a setting that is not known here.
    """
    if unknown := sorted(settings.keys() - TRANSLATED.keys() - NO_MATTER):
        raise ValueError(f"pip's setting {unknown[0]} has no translation")
    environment = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # pip takes the best of all indexes
    for name in TRANSLATED.keys() & settings.keys():
        words = settings[name].split()
        if name.startswith("no-"):
            words = [WORDS.get(words[0].lower(), words[0].lower())]
        environment[TRANSLATED[name]] = ("," if name == "find-links" else " ").join(words)
    return environment


def cache_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """uv keeps no cache where the folder for it cannot be made (a container's HOME that does not exist, or is read-only): it would refuse to run."""
    chosen = environment.get("UV_CACHE_DIR") or environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    try:
        os.makedirs(chosen, exist_ok=True)
    except OSError:
        return {"UV_NO_CACHE": "true"}
    return {} if os.access(chosen, os.W_OK) else {"UV_NO_CACHE": "true"}


def main(files: list[str]) -> int:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wanted = [argument for name in files for argument in ("-r", name)]
    try:
        listed = subprocess.run([*pip, "config", "list"], check=True, capture_output=True, text=True).stdout
        environment = os.environ | cache_settings(os.environ) | uv_environment(pip_settings(listed))
        subprocess.run([*pip, "install", "--quiet", UV], check=True)
        subprocess.run(
            [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", sys.executable, *wanted],
            check=True,
            env=environment,
        )
        return 0
    except (ValueError, subprocess.CalledProcessError) as problem:
        print(f"without uv, which would be faster: {problem}", file=sys.stderr)
        return subprocess.run([*pip, "install", "--quiet", *wanted]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
