"""Exact nearest neighbours by blocks, so that memory stays bounded: the N x M distances never exist at once.

All blocks lie in one place, and what is found in them in another that is there before. A new block each time is given back to the system each time,
or, with results that stay between two of them, leaves holes that the next one does not fit into: 1.5 GB of them for 20,000 images.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ROWS = 256  # 20 MB of distances to 10,000 images
GROUP = 16  # columns of which only the smallest is looked at first


def distance_chunks(x: Tensor, y: Tensor, *, chunk_rows: int = CHUNK_ROWS) -> Iterator[tuple[int, Tensor]]:
    """Blocks (first row, [<= chunk_rows, m]) of the squared Euclidean distances of x [n, d] to y [m, d], in the dtype of x; each until the next.

    |x - y|^2 = |x|^2 - 2 x.y + |y|^2 cancels where points are close, so both sets are first moved to the mean of y; clamped at 0.
    """
    centre = y.mean(dim=0)
    x, y = x - centre, y - centre
    y_norms = y.square().sum(dim=1)
    place = x.new_empty(min(chunk_rows, len(x)), len(y))
    for start in range(0, len(x), chunk_rows):
        rows = x[start : start + chunk_rows]
        squared = torch.addmm(y_norms, rows, y.T, alpha=-2, out=place[: len(rows)]).add_(rows.square().sum(dim=1, keepdim=True))
        yield start, squared.clamp_(min=0)


def nearest(x: Tensor, y: Tensor, *, chunk_rows: int = CHUNK_ROWS) -> tuple[Tensor, Tensor]:
    """Distance [n] float64 to, and index [n] int64 of, the row of y [m, d] nearest to each row of x [n, d].

    The search is in the dtype of x; the distance to the row it found is then taken directly, in float64, so a copy is at exactly 0.
    """
    index = torch.empty(len(x), dtype=torch.int64)
    for start, squared in distance_chunks(x, y, chunk_rows=chunk_rows):
        torch.argmin(squared, dim=1, out=index[start : start + len(squared)])
    return (x.double() - y[index].double()).square().sum(dim=1).sqrt(), index


def nearest_other(x: Tensor, *, chunk_rows: int = CHUNK_ROWS) -> Tensor:
    """Distance [n] float64 from each row of x [n, d] to its nearest other row; a copy is at exactly 0, as in `nearest`."""
    index = torch.empty(len(x), dtype=torch.int64)
    for start, squared in distance_chunks(x, x, chunk_rows=chunk_rows):
        squared.diagonal(start).fill_(torch.inf)
        torch.argmin(squared, dim=1, out=index[start : start + len(squared)])
    return (x.double() - x[index].double()).square().sum(dim=1).sqrt()


def kth_neighbour_distance(x: Tensor, k: int, *, chunk_rows: int = CHUNK_ROWS) -> Tensor:
    """Squared distance [n] from each row of x [n, d] to its k-th nearest other row.

    Raises:
        ValueError: there are no k other rows.
    """
    if len(x) <= k:
        raise ValueError(f"evaluate.neighbours={k} needs at least {k + 1} images on each side, got {len(x)} (params.yaml: evaluate)")
    radii = x.new_empty(len(x))
    for start, squared in distance_chunks(x, x, chunk_rows=chunk_rows):
        squared.diagonal(start).fill_(torch.inf)  # a point is not its own neighbour; its duplicates are
        radii[start : start + len(squared)] = kth_smallest(squared, k)
    return radii


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest of each row of values [n, m], k from 1: [n].

    The k smallest lie in the k groups of columns with the smallest minima, so only these are sorted: an order faster than `kthvalue` of whole rows.
    """
    groups = values.shape[1] // GROUP
    if groups <= 2 * k:
        return values.kthvalue(k, dim=1).values
    grouped, rest = values[:, : groups * GROUP].unflatten(1, (groups, GROUP)), values[:, groups * GROUP :]
    chosen = grouped.amin(dim=2).topk(k, dim=1, largest=False).indices
    candidates = grouped.gather(1, chosen[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    return torch.cat([candidates, rest], dim=1).kthvalue(k, dim=1).values
