"""Images of one's own: a folder of them, with or without labels."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from saehelpers.datasets.images import ImageSet, load_image_folder, split

RED, GREEN, BLUE = (200, 0, 0), (0, 100, 0), (0, 0, 50)


def write(path, colour=RED, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), colour).save(path)


def write_png_with(byte, value, path):
    write(path)
    data = bytearray(path.read_bytes())
    data[byte] = value
    path.write_bytes(data)


UNREADABLE = {
    "text": lambda path: path.write_text("no image"),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: (write(path), path.write_bytes(path.read_bytes()[:50])),
    "wrong length of the header": partial(write_png_with, 11, 0),
    "wrong length of the pixels": partial(write_png_with, 36, 0),
    "folder": lambda path: path.mkdir(),
}


def test_flat_folder_is_read_in_the_order_of_names(tmp_path):
    for name, colour in (("c.png", BLUE), ("a.png", RED), ("b.PNG", GREEN)):
        write(tmp_path / name, colour)
    (tmp_path / "notes.txt").touch()
    found = load_image_folder(tmp_path, 4)
    assert found.images.shape == (3, 3, 4, 4)
    assert found.images[:, :, 0, 0].tolist() == [list(RED), list(GREEN), list(BLUE)]
    assert (found.images == found.images[:, :, :1, :1]).all()
    assert (found.labels, found.classes, found.source) == (None, (), str(tmp_path))
    names = [str(tmp_path / name) for name in ("a.png", "b.PNG", "c.png")]
    assert found.properties["file"].tolist() == names


def test_folders_are_classes(tmp_path):
    for name in ("spiral/2.png", "round/9.png", "spiral/deeper/1.png", "edge/3.png"):
        write(tmp_path / name, BLUE if "spiral" in name else RED)
    found = load_image_folder(str(tmp_path))
    assert found.images.shape == (4, 3, 64, 64)
    assert found.classes == ("edge", "round", "spiral")
    assert found.labels.tolist() == [0, 1, 2, 2]
    assert found.images[:, 2, 0, 0].tolist() == [0, 0, 50, 50]


@pytest.mark.parametrize(
    "mode, colour, expected",
    [("L", 7, [7, 7, 7]), ("RGBA", (9, 8, 7, 128), [9, 8, 7]), ("RGB", RED, list(RED))],
)
def test_every_image_becomes_red_green_and_blue(tmp_path, mode, colour, expected):
    write(tmp_path / "a.png", colour, mode=mode)
    images = load_image_folder(tmp_path, 8).images
    assert (images == torch.tensor(expected)[:, None, None]).all()


def test_pixels_of_images_that_have_the_size_are_kept(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(load_image_folder(tmp_path, 8).images[0].permute(1, 2, 0), pixels)


@pytest.mark.parametrize("transposed", [False, True])
def test_images_are_cropped_to_the_square_in_their_middle(tmp_path, transposed):
    pixels = np.full((8, 24, 3), 255, np.uint8)
    pixels[:, 8:16] = RED
    Image.fromarray(pixels.swapaxes(0, 1) if transposed else pixels).save(tmp_path / "a.png")
    assert (load_image_folder(tmp_path, 8).images == torch.tensor(RED)[:, None, None]).all()


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_images_are_named_or_left_out(tmp_path, kind, capsys):
    for name, colour in (("x/a.png", RED), ("y/c.png", BLUE)):
        write(tmp_path / name, colour)
    UNREADABLE[kind](tmp_path / "x" / "b.png")
    with pytest.raises(ValueError, match=r"x/b\.png cannot be read .*skip_unreadable=True"):
        load_image_folder(tmp_path)
    found = load_image_folder(tmp_path, skip_unreadable=True)
    assert f"left out, not readable: {tmp_path / 'x' / 'b.png'}" in capsys.readouterr().out
    assert found.images[:, 0, 0, 0].tolist() == [200, 0]
    assert (found.labels.tolist(), len(found.properties)) == ([0, 1], 2)


def test_folders_without_images(tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match=rf"no images in {folder}: .*\.jpg"):
            load_image_folder(folder)
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(FileNotFoundError, match=f"none of the 1 images in {tmp_path} can be read"):
        load_image_folder(tmp_path, skip_unreadable=True)


def test_images_beside_folders(tmp_path):
    for name in ("a.png", "x/b.png", "y/c.png"):
        write(tmp_path / name)
    with pytest.raises(ValueError, match="has images beside its folders x, y"):
        load_image_folder(tmp_path)


def numbered(n, labelled=True):
    """Images of which each, its label and its property are its number."""
    numbers = torch.arange(n)
    images = numbers[:, None, None, None].expand(-1, 3, 2, 2).to(torch.uint8)
    properties = pd.DataFrame({"number": numbers.numpy()}) if labelled else pd.DataFrame()
    return ImageSet(images, numbers if labelled else None, ("a", "b"), "here", properties)


def test_split_holds_out_each_image_once_with_what_belongs_to_it():
    train, test = split(numbered(10), 3)
    assert sorted([*train.labels.tolist(), *test.labels.tolist()]) == list(range(10))
    assert len(test.images) == 3
    for part in (train, test):
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)
        assert part.properties.number.tolist() == part.labels.tolist()
    again, other = split(numbered(10), 3)[1], split(numbered(10), 3, seed=1)[1]
    assert torch.equal(again.images, test.images) and not torch.equal(other.images, test.images)


def test_split_of_images_without_labels_or_properties():
    train, test = split(numbered(4, labelled=False), 1)
    assert train.labels is None and len(train.properties) == 3 and len(test.images) == 1


@pytest.mark.parametrize("n_test", [0, 10, 11])
def test_split_leaves_something_on_both_sides(n_test):
    with pytest.raises(ValueError, match="of 10 images between 1 and 9 can be held out"):
        split(numbered(10), n_test)


def test_grey_levels_of_16_bits_are_scaled(tmp_path):
    levels = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    loaded = load_image_folder(tmp_path, 8).images[0, 0].numpy()
    assert abs(loaded - levels / 257).max() < 1.5
