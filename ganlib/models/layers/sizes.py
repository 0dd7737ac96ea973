"""Which image sizes a convolutional network can make by doubling."""

import math

CORE = 4  # the shorter side of the smallest feature map is 4..7 pixels


def doublings(size: tuple[int, int], *, family: str) -> int:
    """How often the core is doubled to reach `size`.

    Raises:
        ValueError: it cannot be reached; names `family` and the nearest legal sizes.
    """
    steps = max(0, (min(size) // CORE).bit_length() - 1)
    unit = 1 << steps
    if steps == 0 or any(side % unit for side in size):
        unit = max(unit, 2)
        lower, upper = ([max(2 * CORE, unit * rounded(side / unit)) for side in size] for rounded in (math.floor, math.ceil))
        raise ValueError(
            f"data.image_size={list(size)} cannot be made by model.name={family}: at least {2 * CORE} pixels a side, "
            f"each side a multiple of {unit}; nearest: {lower} or {upper}"
        )
    return steps
