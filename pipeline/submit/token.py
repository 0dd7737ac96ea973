"""The token of a Ray cluster, where Ray 2.60 itself looks for it: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""

import os
from collections.abc import Mapping
from pathlib import Path

WHERE = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"


def find_token(environment: Mapping[str, str] = os.environ, *, home: Path | None = None) -> tuple[str, str]:
    """(token, where it was found); ("", why there is none) without one.

    Raises:
        ValueError: RAY_AUTH_TOKEN_PATH names a file that cannot be read, or that is empty.
    """
    if environment.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return "", "RAY_AUTH_MODE=disabled sends none"
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    if path := environment.get("RAY_AUTH_TOKEN_PATH"):
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ValueError(f"RAY_AUTH_TOKEN_PATH={path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if not token:
            raise ValueError(f"RAY_AUTH_TOKEN_PATH={path} is empty; expected the cluster's token")
        return token, f"RAY_AUTH_TOKEN_PATH={path}"
    default = (home or Path.home()) / ".ray" / "auth_token"
    try:
        token = default.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        token = ""
    return (token, str(default)) if token else ("", f"there is none in {WHERE}")
