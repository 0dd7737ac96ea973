"""Faults in the pixels of each image."""

import io
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from ganlib.metrics.faults import FAULTS, Altered, Change, Fault, Held, Picked, short

PATCHES = 4  # along each side


def altered(held: Held, purpose: str, change: Change) -> Altered:
    """The images that stand for generated ones, changed."""
    return Altered(images=held.images, rows=held.fake, change=change, seed=held.seed, purpose=f"fault {purpose}")


def to_uint8(values: Tensor) -> np.ndarray:
    """Any real numbers -> uint8, rounded to even and cut to 0..255."""
    array: np.ndarray = values.round().clamp(0, 255).to(torch.uint8).numpy()
    return array


def to_float(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).float()


def colours(channels: int) -> int:
    """How many of the channels are colours: a fourth one is opacity."""
    return min(channels, 3)


@FAULTS.register("blur")
class Blur(Fault):
    """Gaussian blur: the standard deviation in pixels, from a 64th of the shorter side."""

    title: ClassVar[str] = "blur"
    unit: ClassVar[str] = "pixels"
    shares: ClassVar[tuple[float, ...]] = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)  # of the shorter side
    least_pixels: ClassVar[float] = 0.4  # of less hardly a pixel changes

    def strengths(self, held: Held) -> tuple[float, ...]:
        sigmas = [held.side * share for share in self.shares]
        return tuple(float(f"{sigma:.2g}") for sigma in sigmas if sigma >= self.least_pixels)[:4]

    def make(self, held: Held, strength: float) -> Altered | Picked:
        _, height, width = held.images.shape
        rows, columns = blur_matrix(height, strength), blur_matrix(width, strength)
        return altered(held, "blur", lambda images, _: to_uint8(rows @ to_float(images) @ columns.T))

    def words(self, strength: float) -> str:
        return f"a blur of {short(strength)} pixels"


def blur_matrix(size: int, sigma: float) -> Tensor:
    """[size, size] float32 that blurs a line of pixels by a Gaussian, mirrored at the ends: exactly what scipy's filter does to one."""
    return torch.from_numpy(gaussian_filter1d(np.eye(size), sigma, axis=0)).float()


@FAULTS.register("noise")
class Noise(Fault):
    """Uniform noise mixed in: the share of noise; at 1 nothing else is left."""

    title: ClassVar[str] = "noise"
    unit: ClassVar[str] = "share of noise"
    steps: ClassVar[tuple[float, ...]] = (0.1, 0.25, 0.5, 1.0)

    def make(self, held: Held, strength: float) -> Altered | Picked:
        def change(images: np.ndarray, rngs: list[torch.Generator]) -> np.ndarray:
            noise = torch.stack([torch.rand(images.shape[1:], generator=rng) for rng in rngs]) * 255
            return to_uint8(torch.lerp(to_float(images), noise, strength))

        return altered(held, "noise", change)

    def words(self, strength: float) -> str:
        return "uniform noise" if strength == 1 else f"{short(100 * strength)} % of noise mixed in"


@FAULTS.register("jpeg")
class Jpeg(Fault):
    """JPEG compression of the colours at a quality of 1 to 100; opacity stays."""

    title: ClassVar[str] = "JPEG"
    unit: ClassVar[str] = "quality"
    none: ClassVar[float] = 100.0
    steps: ClassVar[tuple[float, ...]] = (60.0, 30.0, 10.0, 3.0)

    def make(self, held: Held, strength: float) -> Altered | Picked:
        def change(images: np.ndarray, _: list[torch.Generator]) -> np.ndarray:
            result, n = images.copy(), colours(images.shape[1])
            for image in result:
                image[:n] = through_jpeg(image[:n], round(strength))
            return result

        return altered(held, "jpeg", change)

    def words(self, strength: float) -> str:
        return f"a JPEG of quality {short(strength)}"


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """[1 or 3, H, W] uint8, compressed and read back."""
    stream = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))).save(stream, "jpeg", quality=quality)
    pixels = np.asarray(Image.open(stream))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@FAULTS.register("colour_shift")
class ColourShift(Fault):
    """Red up and blue down by so many grey levels of 255; one channel has no colour."""

    title: ClassVar[str] = "colour shift"
    unit: ClassVar[str] = "grey levels"
    steps: ClassVar[tuple[float, ...]] = (8.0, 24.0, 72.0)

    def why_not(self, held: Held) -> str | None:
        return "grey images have no colour" if held.images.shape[0] < 3 else None

    def make(self, held: Held, strength: float) -> Altered | Picked:
        shift = torch.zeros(held.images.shape[0], 1, 1)
        shift[0], shift[2] = strength, -strength
        return altered(held, "colour shift", lambda images, _: to_uint8(to_float(images) + shift))

    def words(self, strength: float) -> str:
        return f"a colour shift of {short(strength)} levels"


@FAULTS.register("checkerboard", paper="distill.pub/2016/deconv-checkerboard")
class Checkerboard(Fault):
    """Fields lighter and darker in turn by so many grey levels of 255, as upsampling leaves them; a field is a 32nd of the shorter side."""

    title: ClassVar[str] = "checkerboard"
    unit: ClassVar[str] = "grey levels"
    steps: ClassVar[tuple[float, ...]] = (8.0, 24.0, 72.0)

    def make(self, held: Held, strength: float) -> Altered | Picked:
        channels, height, width = held.images.shape
        field = max(1, held.side // 32)
        rows, columns = torch.arange(height) // field, torch.arange(width) // field
        board = ((rows[:, None] + columns) % 2 * 2 - 1) * strength  # [H, W]
        is_colour = (torch.arange(channels) < colours(channels)).float()[:, None, None]
        return altered(held, "checkerboard", lambda images, _: to_uint8(to_float(images) + board * is_colour))

    def words(self, strength: float) -> str:
        return f"a checkerboard of {short(strength)} levels"


@FAULTS.register("phase_scrambling")
class PhaseScrambling(Fault):
    """The phases of a share of the spatial frequencies drawn anew, of all channels alike: clouds of the right colours and spectrum at 1."""

    title: ClassVar[str] = "phases scrambled"
    unit: ClassVar[str] = "share of phases"
    steps: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0)

    def make(self, held: Held, strength: float) -> Altered | Picked:
        def change(images: np.ndarray, rngs: list[torch.Generator]) -> np.ndarray:
            noise = torch.stack([torch.randn(2, *images.shape[2:], generator=rng) for rng in rngs])
            return to_uint8(scrambled(to_float(images), noise, strength))

        return altered(held, "phase scrambling", change)

    def words(self, strength: float) -> str:
        return "scrambled phases" if strength == 1 else f"{short(100 * strength)} % of the phases scrambled"


def scrambled(images: Tensor, noise: Tensor, share: float) -> Tensor:
    """Images [n, C, H, W] with the phases of white noise [n, 2, H, W] added at `share` of the frequencies; every amplitude stays.

    Both the added phases and the choice of frequencies come from the spectra of real noise, which have the symmetry of a real image's.
    """
    spectrum, (phases, order) = torch.fft.fft2(images), torch.fft.fft2(noise).unbind(dim=1)
    size = order.abs().flatten(1)
    size[:, 0] = torch.inf  # the mean stays: it is the last to be chosen
    rank = size.argsort(dim=1, stable=True).argsort(dim=1).reshape(order.shape)  # equal sizes are k and -k: neighbours in rank
    count = round(share * (order[0].numel() - 1))
    twin = torch.roll(rank.flip(1, 2), (1, 1), (1, 2))  # of -k
    chosen = torch.minimum(rank, twin) < count
    chosen[:, 0, 0] = False
    turn = torch.where(chosen, torch.polar(torch.ones_like(phases.real), phases.angle()), torch.ones_like(phases))
    result: Tensor = torch.fft.ifft2(spectrum * turn[:, None]).real
    return result


@FAULTS.register("shuffled_patches")
class ShuffledPatches(Fault):
    """Patches of a quarter of each side moved to each other's places: the share of them that moves. What four do not divide stays at the rim."""

    title: ClassVar[str] = "patches shuffled"
    unit: ClassVar[str] = "share of patches"
    steps: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0)

    def why_not(self, held: Held) -> str | None:
        return f"a side of {held.side} pixels has no {PATCHES} patches" if held.side < PATCHES else None

    def make(self, held: Held, strength: float) -> Altered | Picked:
        moving = round(strength * PATCHES**2)

        def change(images: np.ndarray, rngs: list[torch.Generator]) -> np.ndarray:
            result = images.copy()
            for image, rng in zip(result, rngs, strict=True):
                order = torch.randperm(PATCHES**2, generator=rng)[:moving].numpy()
                patches = cut(image)
                patches[order] = patches[np.roll(order, 1)]
                paste(patches, image)
            return result

        return altered(held, "shuffled patches", change)

    def words(self, strength: float) -> str:
        return "shuffled patches" if strength == 1 else f"{short(100 * strength)} % of the patches shuffled"


def cut(image: np.ndarray) -> np.ndarray:
    """[C, H, W] -> [PATCHES^2, C, h, w], a copy."""
    channels, h, w = image.shape[0], image.shape[1] // PATCHES, image.shape[2] // PATCHES
    blocks = image[:, : h * PATCHES, : w * PATCHES].reshape(channels, PATCHES, h, PATCHES, w)
    return blocks.transpose(1, 3, 0, 2, 4).reshape(PATCHES**2, channels, h, w).copy()


def paste(patches: np.ndarray, image: np.ndarray) -> None:
    """The inverse of `cut`, into `image`."""
    _, channels, h, w = patches.shape
    blocks = patches.reshape(PATCHES, PATCHES, channels, h, w).transpose(2, 0, 3, 1, 4)
    image[:, : h * PATCHES, : w * PATCHES] = blocks.reshape(channels, h * PATCHES, w * PATCHES)
