"""The `marks` section of params.yaml."""

import hashlib

from pydantic import Field

from ganlib.config import Section


class MarksConfig(Section):
    """What says, in exported images, that they are synthetic. Images that the pipeline measures are never marked."""

    pixels: bool = Field(True, description="an invisible mark in the pixels of what `ganpipe generate` and `ganpipe page` hand out")
    strength: float = Field(2.0, gt=0, le=16, description="root mean square of the mark, in grey levels of 255", strict=False)
    key: str = Field(
        "ganpipe",
        min_length=1,
        description="of the mark: whoever has it can find the mark, and take it out. GANPIPE_MARK_KEY in the environment wins",
    )


def seed_of(key: str) -> int:
    """A key as the seed of its patterns."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
