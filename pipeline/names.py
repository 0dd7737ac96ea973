"""What a model is called in the registry: one name a problem and data set, unless params.yaml has one."""

import re
from pathlib import PurePosixPath

AUTO = "auto"
OWN_FILES = frozenset({"idx", "image_folder", "parquet"})  # sources that read `data.path`: the folder names the data, not the source
PREFIX = "gan"
_LEGAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]*")


def model_name(setting: str, *, source: str, path: str) -> str:
    """`register.model`, or what `auto` comes to: `gan-fashion-mnist`, `gan-digits`, and of one's own files their folder's name.

    Args:
        source, path: of the `data` section.

    Raises:
        ValueError: nothing tells where the data came from, or a name that addresses cannot hold.
    """
    if setting != AUTO:
        if not _LEGAL.fullmatch(setting) or ".lock" in setting:
            raise ValueError(
                f"register.model={setting!r} cannot be a name in `models:/NAME@champion`; expected letters, digits, dots and dashes, and no .lock"
            )
        return setting
    folder = PurePosixPath(path.rstrip("/")).name
    name = slug(source) if source not in OWN_FILES else slug(re.sub(r"\.(zip|parquet)$", "", folder, flags=re.IGNORECASE))
    if not name:
        raise ValueError(f"register.model=auto, but data.source={source!r} and data.path={path!r} say no name; set register.model")
    return f"{PREFIX}-{name}"


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
