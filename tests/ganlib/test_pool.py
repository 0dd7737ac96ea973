"""The history of generated images: what it keeps, what it shows, and whose it is."""

import torch

from ganlib.pool import Pool
from ganlib.rng import keyed_rng


def numbered(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1)


def exchange(pool: Pool, first: int, count: int, *, worker: int = 0) -> list[int]:
    images = numbered(*range(first, first + count))
    return [int(x) for x in pool.exchange(images, logical_worker=worker, rng=keyed_rng(0, "history", first)).flatten()]


def test_half_are_images_of_earlier_steps_once_it_is_full():
    """Kills: a history that never fills, one that shows all or none of what it keeps, an image that is shown twice and kept still."""
    pool = Pool((1, 1, 1), images=20, logical_workers=2)
    assert exchange(pool, 0, 15) == list(range(15))
    shown = [*range(15)]
    for first in range(15, 2015, 10):
        found = exchange(pool, first, 10)
        shown += found
        assert all(x < first + 10 for x in found)
    old = sum(x != first for x, first in zip(shown[20:], range(20, 2015), strict=True)) / 1995
    assert 0.45 < old < 0.55
    assert len(set(shown)) > 0.97 * len(shown) - 20  # each goes out once, but for those that were kept while there was place


def test_each_logical_worker_has_its_own_and_a_state_goes_on():
    pool, again = (Pool((1, 1, 1), images=3, logical_workers=2) for _ in range(2))
    exchange(pool, 0, 5, worker=1)
    state = pool.state()
    assert state["counts"].tolist() == [0, 3]
    assert state["images"][0].abs().sum() == 0
    again.load(state)
    assert exchange(pool, 10, 8, worker=1) == exchange(again, 10, 8, worker=1)
    other = Pool((1, 1, 1), images=4, logical_workers=2)
    other.load(state)  # of another size: it begins empty
    assert other.state()["counts"].tolist() == [0, 0]
