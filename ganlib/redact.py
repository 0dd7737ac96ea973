"""Addresses and messages without the passwords in them, for whatever is printed, logged or stored."""

import re
from urllib.parse import unquote

HIDDEN = "***"
_ADDRESS = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>[^\s'\"<>]*)")
_SECRET_OPTION = re.compile(
    r"(?i)(?P<name>[?&;][^=&;\s'\"]*(?:password|passwd|pwd|passphrase|secret|token|signature|credential|access_?key|api_?key|account_?key|sig)"
    r"[^=&;\s'\"]*=)[^&;\s'\"]+"
)


def redacted(text: str, *, of: str = "") -> str:
    """`text` with `***` for what stands before the @ of an address and for the values of options like `?password=`.

    Args:
        of: an address whose own password is left out wherever it stands in `text`: a driver may have taken the address apart.
    """
    text = _SECRET_OPTION.sub(rf"\g<name>{HIDDEN}", _ADDRESS.sub(_without_user, text))
    for secret in sorted(_secrets(of), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _without_user(found: re.Match[str]) -> str:
    rest = found["rest"]
    end = _end_of_user(rest)
    return found["scheme"] + (f"{HIDDEN}@{rest[end + 1 :]}" if end >= 0 else rest)


def _end_of_user(rest: str) -> int:
    """Where the @ is that ends `user:password`; -1 without one. A password with an unquoted /, ? or # in it is one, too."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return authority.rindex("@")
    _, colon, port = authority.rpartition(":")
    return rest.rfind("@") if colon and port and not port.isdigit() and not authority.endswith("]") else -1


def _secrets(address: str) -> set[str]:
    found = set()
    for match in _ADDRESS.finditer(address):
        end = _end_of_user(match["rest"])
        user, colon, password = match["rest"][: max(end, 0)].partition(":")
        found |= {password if colon else user}
    found |= {match[0].partition("=")[2] for match in _SECRET_OPTION.finditer(address)}
    return {form for secret in found if len(secret) >= 4 for form in (secret, unquote(secret))}  # shorter ones stand in ordinary words
