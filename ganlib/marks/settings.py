"""The `marks` section of params.yaml."""

from pydantic import Field

from ganlib.config import Section
from ganlib.marks.embedding import STRENGTH


class MarksConfig(Section):
    """What says, in exported images, that they are synthetic. Images that the pipeline measures are never marked."""

    pixels: bool = Field(
        True, description="an invisible mark in the pixels of what `ganpipe generate`, `ganpipe mark` and `ganpipe serve` hand out"
    )
    strength: float = Field(STRENGTH, gt=0, le=16, description="root mean square of the mark, in grey levels of 255", strict=False)
    key: str = Field(
        "ganpipe",
        min_length=1,
        description="of the mark: whoever has it can find the mark, and take it out. GANPIPE_MARK_KEY in the environment wins",
    )
