"""Features of a network of one's own: a TorchScript file, images in, features out."""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ganlib.metrics import EXTRACTORS
from ganlib.metrics.interface import Images, checked_images
from ganlib.metrics.settings import Depth

BATCH_IMAGES = 50
# sha256 of a file -> what is published in its features
KNOWN = {
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4": "Inception-v3 of 2015-12-05: FID, KID and Inception score as published "
    "with it, where 50,000 images are compared with the whole training set",
}


@EXTRACTORS.register("torchscript")
@dataclass(frozen=True)
class TorchScript:
    """torchscript:PATH, a file below data/extractors: [n, 3, H, W] uint8 in (grey is repeated), [n, d] features out.

    A module whose forward has an argument `return_features` is called with it, as the published Inception of 2015-12-05 wants it. The file is
    kept with the features, so what it was is known for good. Other networks in whose features figures are published: DINOv2 (arXiv:2304.07193)
    and CLIP (arXiv:2103.00020), exported with their own resizing inside.
    """

    module: Any
    file: Tensor  # [size_bytes] uint8
    file_name: str
    image_shape: tuple[int, int, int]
    name: ClassVar[str] = "torchscript"
    depths: ClassVar[tuple[Depth, ...]] = ("last",)
    feature_dims: ClassVar[dict[str, int]] = {}  # as many as the file gives
    knows_classes: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = False
    takes_float: ClassVar[bool] = False  # nobody knows what a file makes of them

    @classmethod
    def fit(cls, images: Images, labels: np.ndarray | None, *, seed: int, epochs: float) -> Self:
        """Raises ValueError: it needs a file, see `of`."""
        raise ValueError("reference.extractor=torchscript needs a file; set reference.extractor: torchscript:data/extractors/NAME.pt")

    @classmethod
    def of(cls, path: Path, image_shape: tuple[int, int, int]) -> Self:
        """The network in `path`, tried on one black picture.

        Raises:
            ValueError: no such file, not TorchScript, or it does not make [n, d] finite numbers of such pictures.
        """
        if not path.is_file():
            raise ValueError(f"reference.extractor=torchscript: there is no file {path}; `dvc pull` fetches one that DVC tracks")
        file = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        try:
            extractor = cls.restore({"image_shape": list(image_shape), "file": path.name}, {"file": file})
            found = extractor.features(torch.zeros(1, *image_shape, dtype=torch.uint8))["last"]
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise ValueError(
                f"{path} is no TorchScript file that takes [n, 3, {image_shape[1]}, {image_shape[2]}] torch.uint8: {reason}; "
                "save one with torch.jit.trace or torch.jit.script, its resizing inside"
            ) from None
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"{path} makes NaN or infinity of a black picture; it is no extractor")
        return extractor

    @classmethod
    def restore(cls, description: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        with warnings.catch_warnings():  # torch would rather have files of torch.export; the published ones are TorchScript
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(io.BytesIO(weights["file"].numpy().tobytes()), map_location="cpu").eval()
        channels, height, width = description["image_shape"]
        return cls(module, weights["file"], description["file"], (channels, height, width))

    def description(self) -> dict[str, Any]:
        return {"image_shape": list(self.image_shape), "file": self.file_name}

    def weights(self) -> dict[str, Tensor]:
        return {"file": self.file}

    def protocol(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.file.numpy().tobytes()).hexdigest()
        return {"file": self.file_name, "file_sha256": digest, **({"published": KNOWN[digest]} if digest in KNOWN else {})}

    @torch.inference_mode()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Raises ValueError where the file gives anything but [n, d] numbers."""
        takes_flag = any(argument.name == "return_features" for argument in self.module.forward.schema.arguments)
        parts = []
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # optimised after some calls, the same picture would have other features
            for batch in checked_images(images, self.image_shape).split(BATCH_IMAGES):
                shown = batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch
                filled = torch.cat([shown, shown[-1:].expand(BATCH_IMAGES - len(shown), -1, -1, -1)])
                found = self.module(filled, return_features=True) if takes_flag else self.module(filled)
                if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != BATCH_IMAGES:
                    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                    raise ValueError(
                        f"{self.file_name} gave {shape} for {BATCH_IMAGES} images, expected a tensor [{BATCH_IMAGES}, features]"
                    )
                parts.append(found[: len(batch)].float())
        return {"last": torch.cat(parts).clone()}

    def class_logits(self, features: Tensor) -> Tensor | None:
        return None

    def accuracy(self, images: Images) -> float | None:
        return None

    def chance(self, images: Images) -> float | None:
        return None
