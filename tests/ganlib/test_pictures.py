import numpy as np
import pytest
from PIL import Image

from ganlib.pictures import NOTICE, class_sheet, grid, grid_png


def test_each_image_stands_in_its_cell_on_white():
    images = np.stack([np.full((1, 2, 3), value, np.uint8) for value in (10, 20, 30)])
    canvas = grid(images, columns=2, gap=1)
    assert canvas.shape == (2 * 3 + 1, 2 * 4 + 1, 1)
    assert (canvas[1:3, 1:4] == 10).all()
    assert (canvas[1:3, 5:8] == 20).all()
    assert (canvas[4:6, 1:4] == 30).all()
    assert (canvas[4:6, 5:8] == 255).all()  # the last row is short
    assert (canvas[0] == 255).all()


def test_a_png_says_that_it_is_synthetic(tmp_path):
    for channels, mode in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        path = tmp_path / f"{mode}.png"
        path.write_bytes(grid_png(np.zeros((4, channels, 8, 8), np.uint8), columns=2, description={"Seed": "7"}))
        with Image.open(path) as picture:
            assert picture.mode == mode
            assert picture.info["Notice"] == NOTICE
            assert picture.info["Seed"] == "7"
            assert picture.width >= 128  # small images are enlarged


def sheet(headings: list[str], *, channels: int = 1, note: str = "", columns: int = 2) -> np.ndarray:
    images = np.zeros((2 * len(headings), channels, 64, 64), np.uint8)
    return class_sheet(images, headings=headings, numbers=range(len(headings)), columns=columns, note=note)


def test_columns_are_headed_by_the_names_of_their_classes():
    """Two bands of two columns, two rows each. Kills a heading that is not drawn, one over the wrong column, and one that runs into its neighbour."""
    pixels = sheet(["cat", "", "", "American Staffordshire terrier"])[0]
    heads = [pixels[top : top + 12, left : left + 64] for top in (0, pixels.shape[0] // 2) for left in (2, 68)]
    assert [bool((head < 128).any()) for head in heads[:2]] == [True, False]
    rows = np.flatnonzero((pixels[:, 2:66] == 0).all(axis=1))  # of images
    assert len(rows) == 4 * 64
    second = pixels[rows[128] - 30 : rows[128] - 2]
    assert (second[:, :66] == 255).all()
    assert (second[:, 68:132] < 128).any()
    assert (pixels[:, 132:] == 255).all()


def test_a_name_without_letters_in_the_font_stands_as_its_number():
    """Kills the mutant that draws boxes: different names would look alike."""
    assert np.array_equal(sheet(["cat", "\u72d7"]), sheet(["cat", "class 1"]))
    assert not np.array_equal(sheet(["cat", "dog"]), sheet(["cat", "class 1"]))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_sheet_has_the_channels_of_its_images_and_room_for_a_note(channels):
    plain, noted = sheet(["cat", "dog"], channels=channels), sheet(["cat", "dog"], channels=channels, note="2 of 9 classes")
    assert plain.shape[0] == channels
    assert noted.shape[1] > plain.shape[1]
    assert np.array_equal(noted[:, -plain.shape[1] :], plain)
    if channels == 4:
        assert (noted[3, : noted.shape[1] - 132] == 255).all()  # text on opaque paper
        assert (plain[:3, :20] < 128).any()
