import numpy as np
from PIL import Image

from ganlib.pictures import NOTICE, grid, grid_png


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
