"""How much a packed file may grow: a few megabytes of zeros, packed, unpack to gigabytes (a decompression bomb).

The bound is a ratio, `data.max_inflation`: images of a flat colour aside, none come near 1:100.
"""

from ganlib.data.settings import MAX_INFLATION

FREE_BYTES = 64 * 2**20  # whatever was packed, so much harms nobody


def allowed_bytes(packed_bytes: int, max_inflation: int = MAX_INFLATION) -> int:
    """How many bytes may come out of so many packed ones."""
    return max(FREE_BYTES, max_inflation * packed_bytes)


def refusal(what: str, packed_bytes: int, max_inflation: int = MAX_INFLATION) -> str:
    """What to tell of a file that is larger."""
    return (
        f"{what} unpacks to more than {allowed_bytes(packed_bytes, max_inflation):,} bytes from {packed_bytes:,}, as a decompression bomb does; "
        f"where that is meant, set data.max_inflation above {max_inflation} (params.yaml)"
    )
