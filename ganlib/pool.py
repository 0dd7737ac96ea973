"""What a task remembers from one step to the next beside weights and numbers: tensors, apart for each logical worker, part of the state."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ganlib import dist


class Pool:
    """Generated images of earlier steps, `images` of them a logical worker, that D is shown in the place of new ones (arXiv:1612.07828, section 2.3).

    As CycleGAN has it (arXiv:1703.10593, section 4): while there is place an image is kept and shown. Then one of two is shown as it comes, and each
    of the others takes the place of one that was kept, which is shown instead.

    Args:
        shape: of one image, (C, H, W).
        images: that are kept, K.
        logical_workers: V; a process holds those that it computes.
    """

    def __init__(self, shape: tuple[int, ...], *, images: int, logical_workers: int) -> None:
        self._logical_workers = logical_workers
        self._here = dist.logical_workers_here(logical_workers)
        self._held = torch.zeros(len(self._here), images, *shape, device=dist.device())
        self._counts = torch.zeros(len(self._here), dtype=torch.int64)

    def exchange(self, new: Tensor, *, logical_worker: int, rng: torch.Generator) -> Tensor:
        """Images [n, C, H, W] -> as many to show, without a gradient; draws 2 n numbers from `rng`, whatever it holds."""
        place = self._here.index(logical_worker)
        held = self._held[place]
        stays, chosen = torch.rand(len(new), generator=rng) < 0.5, torch.randint(len(held), (len(new),), generator=rng)
        shown = new.detach().clone()
        for i, (is_new, slot) in enumerate(zip(stays.tolist(), chosen.tolist(), strict=True)):
            count = int(self._counts[place])
            if count < len(held):
                held[count] = shown[i].to(held.dtype)
                self._counts[place] += 1
            elif not is_new:
                kept = held[slot].clone()
                held[slot] = shown[i].to(held.dtype)
                shown[i] = kept.to(shown.dtype)
        return shown

    def state(self) -> dict[str, Tensor]:
        """`images` [V, K, C, H, W] float32 and `counts` [V] int64 of every logical worker. All processes must call it together."""
        held = dist.gather_logical(self._held, logical_workers=self._logical_workers)
        counts = dist.gather_logical(self._counts.to(self._held.device), logical_workers=self._logical_workers)
        return {"images": held.cpu(), "counts": counts.cpu()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up where `state` was taken, on any number of processes; one of another size or shape begins empty."""
        here = list(self._here)
        if tensors and tensors["images"].shape[1:] == self._held.shape[1:] and len(tensors["images"]) == self._logical_workers:
            self._held.copy_(tensors["images"][here])
            self._counts.copy_(tensors["counts"][here])
