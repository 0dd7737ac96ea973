"""What augmentations that move pixels share. All of it is differentiable in the images any number of times."""

import torch
from torch import Tensor


def take(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Each image read at row and column numbers of its own: [N, C, H, W], [N, h], [N, w] int64 -> [N, C, h, w]."""
    n, channels, _, width = images.shape
    images = images.gather(2, rows[:, None, :, None].expand(n, channels, rows.shape[1], width))
    return images.gather(3, columns[:, None, None, :].expand(n, channels, rows.shape[1], columns.shape[1]))


def translate(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image moved by whole pixels [N], [N] int64; zeros, which are grey, come in."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) - down.to(images.device)[:, None]
    columns = torch.arange(width, device=images.device) - right.to(images.device)[:, None]
    is_inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    return take(images, rows.clamp(0, height - 1), columns.clamp(0, width - 1)) * is_inside


def draw_shifts(images: Tensor, share: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Whole pixels down and to the right, [N], [N] int64 on the CPU: up to `share` of the side either way, each as likely."""
    down, right = (int(side * share + 0.5) for side in images.shape[2:])
    return (
        torch.randint(-down, down + 1, (len(images),), generator=rng),
        torch.randint(-right, right + 1, (len(images),), generator=rng),
    )


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """[N] on the CPU -> [N, 1, 1, 1] beside the images; numbers in their type."""
    return values.to(images.device, images.dtype if values.is_floating_point() else values.dtype)[:, None, None, None]
