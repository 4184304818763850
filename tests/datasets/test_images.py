"""Images of one's own: a folder of them, with or without labels."""

import dataclasses
import itertools
from functools import partial

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from astropy.io import fits
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


def test_split_of_images_whose_channels_come_last_in_memory(capsys):
    images = numbered(10)
    images = dataclasses.replace(
        images, images=images.images.contiguous(memory_format=torch.channels_last)
    )
    _, test = split(images, 3)
    assert torch.equal(test.images, split(numbered(10), 3)[1].images)
    assert "among those to train on" not in capsys.readouterr().out


@pytest.mark.parametrize("n_test", [0, 10, 11])
def test_split_leaves_something_on_both_sides(n_test):
    with pytest.raises(ValueError, match="n_test"):
        split(numbered(10), n_test)


def test_grey_levels_of_16_bits_are_scaled(tmp_path):
    levels = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    loaded = load_image_folder(tmp_path, 8).images[0, 0].numpy()
    assert abs(loaded - levels / 257).max() < 1.5


# --- depth, colours, orientation ---


def loaded(path, size=8) -> np.ndarray:
    """(size, size, 3), of the one image of a folder."""
    return load_image_folder(path, size).images[0].permute(1, 2, 0).numpy()


RAMP = np.linspace(0, 1, 64).reshape(8, 8)


@pytest.mark.parametrize(
    "dtype, low, high",
    [
        *itertools.product(["f2", "f4", "f8", ">f4"], [0], [1, 0.01]),
        *itertools.product(["f2", "f4", "i4", "i2"], [-3], [30_000]),
        *itertools.product(["f4", "f8", "u4", "i4", "u8"], [1e6], [2e6]),
        ("u4", 0, 2**32 - 1),
    ],
)
def test_numbers_of_any_range_become_the_whole_range(tmp_path, dtype, low, high):
    levels = (low + (high - low) * RAMP).astype(dtype)
    if levels.min() == levels.max() or not np.isfinite(levels).all():
        pytest.skip("not of this type")
    whole = levels.dtype.kind in "iu" and low == 0 and high <= 1  # levels 0 and 1 of 8 bits
    tifffile.imwrite(tmp_path / "a.tif", levels)
    exact = levels.astype("f8") - float(levels.min())
    expected = exact if whole else 255 * exact / exact.max()
    if levels.dtype.kind in "iu" and levels.min() >= 0 and levels.max() < 2**16:
        expected = levels.astype("f8")
    assert abs(loaded(tmp_path) - expected[..., None]).max() <= 0.51


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["png", "tif", "big-endian tif", "signed tif", "fits"])
def test_white_is_the_largest_number_of_the_bits_in_use(tmp_path, bits, kind):
    white = 2 ** min(bits, 15 if kind in ("signed tif", "fits") else 16) - 1
    levels = (white * RAMP).round().astype(np.int16 if "signed" in kind else np.uint16)
    if kind == "png":
        Image.fromarray(levels).save(tmp_path / "a.png")
    elif kind == "fits":
        fits.PrimaryHDU(levels.astype(np.int16)).writeto(tmp_path / "a.fits")
    else:
        tifffile.imwrite(tmp_path / "a.tif", levels, byteorder=">" if "big" in kind else "<")
    assert abs(loaded(tmp_path) - 255 * RAMP[..., None]).max() < 1.5


def test_levels_of_a_folder_are_scaled_alike(tmp_path):
    for name, white in (("a", 1000), ("b", 4000)):
        Image.fromarray((white * RAMP).astype(np.uint16)).save(tmp_path / f"{name}.png")
    write(tmp_path / "c.png", RED)
    a, b, c = load_image_folder(tmp_path, 8).images
    assert (int(a.max()), int(b.max()), int(c.max())) == (62, 249, 200)  # of 4,095, of 255


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("dtype, white", [("u2", 4095), ("u2", 65535), ("f4", 1), ("f8", 3)])
def test_deep_colours(tmp_path, dtype, white, planar):
    colours = np.stack([RAMP, RAMP.T, 1 - RAMP])
    levels = (white * colours).astype(dtype)
    levels = levels if planar else np.ascontiguousarray(np.moveaxis(levels, 0, -1))
    layout = "separate" if planar else "contig"
    tifffile.imwrite(tmp_path / "a.tif", levels, photometric="rgb", planarconfig=layout)
    assert abs(loaded(tmp_path) - 255 * np.moveaxis(colours, 0, -1)).max() < 1.5


def test_bands_that_are_no_colours(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 4), "u2"), photometric="separated")
    with pytest.raises(
        ValueError, match=r"a\.tif cannot .*uint16 in 4 bands, SEPARATED: more than 8"
    ):
        load_image_folder(tmp_path)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), "u2"), photometric="miniswhite")
    with pytest.raises(
        ValueError, match=r"a\.tif cannot .*uint16 in 1 bands, MINISWHITE: more than"
    ):
        load_image_folder(tmp_path)


@pytest.mark.parametrize("suffix", ["fits", "FIT", "fts", "fits.gz"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
def test_fits_is_read_as_numbers(tmp_path, suffix, dtype):
    levels = (1000 * RAMP - 300).astype(dtype)
    units = [fits.PrimaryHDU(), fits.ImageHDU(levels[None]), fits.ImageHDU(levels.T)]
    fits.HDUList(units).writeto(tmp_path / f"a.{suffix}")
    expected = 255 * (levels - levels.min()) / (levels.max() - levels.min())
    assert abs(loaded(tmp_path) - expected[..., None]).max() <= 0.51


def test_planes_of_fits_are_colours(tmp_path):
    fits.PrimaryHDU(np.stack([RAMP, RAMP.T, 1 - RAMP])).writeto(tmp_path / "a.fits")
    expected = 255 * np.stack([RAMP, RAMP.T, 1 - RAMP], axis=-1)
    assert abs(loaded(tmp_path) - expected).max() <= 0.51


@pytest.mark.parametrize(
    "data, message",
    [
        (np.full((8, 8), np.nan), "there are pixels that are no numbers"),
        (np.zeros((5, 8, 8)), r"its first image is \(5, 8, 8\): one is \(h, w\), or \(3, h, w\)"),
        (None, "there is no image in it"),
    ],
)
def test_fits_without_an_image(tmp_path, data, message):
    fits.PrimaryHDU(data).writeto(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=rf"a\.fits cannot be read as an image \({message}"):
        load_image_folder(tmp_path)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("length", [0, 100, 3000])
@pytest.mark.parametrize("kind", ["tif", "fits"])
def test_deep_files_that_are_cut_short(tmp_path, kind, length):
    path = tmp_path / f"a.{kind}"
    levels = np.random.default_rng(0).random((64, 64)).astype("f4")
    tifffile.imwrite(path, levels) if kind == "tif" else fits.PrimaryHDU(levels).writeto(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"a\.{kind} cannot be read as an image"):
        load_image_folder(tmp_path)


@pytest.mark.parametrize(
    "mode, colour, expected",
    [
        ("1", 1, [255, 255, 255]),
        ("LA", (7, 100), [7, 7, 7]),
        ("RGBA", (9, 8, 7, 0), [9, 8, 7]),
        ("CMYK", (0, 255, 255, 0), [255, 0, 0]),
        ("HSV", (0, 255, 255), [255, 0, 0]),
        ("YCbCr", (100, 128, 128), [100, 100, 100]),
    ],
)
def test_modes_of_colour(tmp_path, mode, colour, expected):
    kind = "tif" if mode in ("CMYK", "YCbCr", "HSV") else "png"
    image = Image.new(mode, (8, 8), colour)
    (image.convert("RGB") if mode == "HSV" else image).save(tmp_path / f"a.{kind}")
    assert (loaded(tmp_path) == expected).all()


@pytest.mark.parametrize("transparency", [None, 0, b"\x00\x80\xff"])
def test_palettes(tmp_path, transparency):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*RED, *GREEN, *BLUE])
    image.save(
        tmp_path / "a.png", **({} if transparency is None else {"transparency": transparency})
    )
    assert (loaded(tmp_path) == GREEN).all()


@pytest.mark.parametrize("mode, said", [("opaque", False), ("half", True)])
def test_transparency_that_is_left_out_is_said(tmp_path, mode, said, capsys):
    write(tmp_path / "a.png", (*RED, 128 if said else 255), "RGBA")
    load_image_folder(tmp_path)
    assert ("without its transparency: " in capsys.readouterr().out) == said


@pytest.mark.parametrize("kind", ["first.gif", "first.tif", "deep.tif"])
def test_the_first_of_several_images_is_taken_and_said(tmp_path, kind, capsys):
    path = tmp_path / kind
    if kind == "deep.tif":
        tifffile.imwrite(
            path, np.stack([4095 * RAMP, 0 * RAMP]).astype("u2"), photometric="minisblack"
        )
    else:
        frames = [Image.fromarray((255 * levels).astype("u1")) for levels in (RAMP, 1 - RAMP)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    assert abs(loaded(tmp_path) - 255 * RAMP[..., None]).max() < 1.5
    assert f"the first of several images in the file: {path}" in capsys.readouterr().out


# what an image with a tag of orientation holds, so that it looks like the other
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x),
    7: lambda x: np.rot90(x.swapaxes(0, 1), 2),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["png", "tif", "deep.tif"])
def test_images_stand_upright_by_their_tag(tmp_path, orientation, kind):
    stored = np.ascontiguousarray(STORED[orientation](255 * RAMP))
    if kind == "deep.tif":
        tag = (274, "H", 1, orientation, True)
        tifffile.imwrite(tmp_path / "a.tif", stored.astype("f4"), extratags=[tag])
    else:
        image = Image.fromarray(stored.astype("u1"))
        tags = image.getexif()
        tags[274] = orientation
        image.save(tmp_path / f"a.{kind}", exif=tags)
    assert abs(loaded(tmp_path) - 255 * RAMP[..., None]).max() <= 1


# --- what else lies in a folder ---


@pytest.mark.parametrize("flat", [False, True])
def test_what_systems_keep_in_folders_is_left_alone(tmp_path, flat, capsys):
    top = tmp_path if flat else tmp_path / "round"
    write(top / "a.png")
    for name in (
        ".ipynb_checkpoints",
        ".thumbnails",
        "@eaDir",
        "__MACOSX",
        "$RECYCLE.BIN",
        "#recycle",
    ):
        write(tmp_path / name / "a.png")
        write(top / name / "b.png")
    for name in ("._a.png", ".hidden.jpg"):
        write(top / name)
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (top / name).touch()
    found = load_image_folder(tmp_path)
    assert found.properties["file"].tolist() == [str(top / "a.png")]
    assert found.classes == (() if flat else ("round",))
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_folder_that_is_hidden_itself_is_read(tmp_path):
    write(tmp_path / ".cache" / "a.png")
    assert len(load_image_folder(tmp_path / ".cache").images) == 1


def test_what_was_found_is_said_class_by_class(tmp_path, capsys):
    for name in ("round/a.png", "round/b.png", "edge/c.png"):
        write(tmp_path / name)
    (tmp_path / "spiral").mkdir()
    (tmp_path / "edge" / "d.heic").touch()
    (tmp_path / "README").touch()
    load_image_folder(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: 3 images; classes: edge 1, round 2",
        "files of other kinds, left out: 1 README, 1 .heic",
        "folders without images: spiral",
    ]


def test_folders_that_are_too_deep_or_too_shallow_are_said(tmp_path, capsys):
    for name in ("train/round/a.png", "train/edge/b.png", "test/round/c.png"):
        write(tmp_path / name)
    assert load_image_folder(tmp_path).classes == ("test", "train")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "no image lies in the folder of a class itself: if the classes are edge, round, pass the "
        "path of test or train"
    ]
    assert load_image_folder(tmp_path / "train" / "round").labels is None
    assert "1 images; no folders, and so no labels" in capsys.readouterr().out


def test_linked_folders_are_classes_and_circles_end(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    for name in ("a.png", "b.png"):
        write(elsewhere / name)
    folder = tmp_path / "images"
    write(folder / "round" / "c.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "round" / "up").symlink_to(folder)
    (elsewhere / "other").symlink_to(folder / "round")
    found = load_image_folder(folder)
    assert found.classes == ("linked", "round")
    names = [path.removeprefix(f"{folder}/") for path in found.properties["file"]]
    assert names[:2] == ["linked/a.png", "linked/b.png"] and "round/c.png" in names


def test_a_link_to_nothing_is_named(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"b\.png cannot be read as an image .*No such file"):
        load_image_folder(tmp_path)


def test_images_in_both_parts_are_said(tmp_path, capsys):
    for i in range(4):
        write(tmp_path / "round" / f"{i}.png", (i, 0, 0))
    write(tmp_path / "copies" / "again.png", (3, 0, 0))
    found = load_image_folder(tmp_path)
    capsys.readouterr()
    pair = {str(tmp_path / "round" / "3.png"), str(tmp_path / "copies" / "again.png")}
    said = set()
    for seed in range(20):
        _, test = split(found, 2, seed)
        held_out = pair & set(test.properties["file"])
        line = capsys.readouterr().out
        if len(held_out) == 1:
            (own,), (other,) = held_out, pair - held_out
            assert f"1 held-out images are among those to train on: {own} is {other}\n" in line
        else:
            assert "among" not in line
        said.add(len(held_out))
    assert 1 in said and len(said) > 1


def test_classes_that_a_part_lacks_are_named(capsys):
    labels = torch.tensor([0] * 9 + [2])
    images = ImageSet(numbered(10).images, labels, ("a", "b", "c"), "here")
    _, test = split(images, 3)
    only_held_out = 2 in test.labels
    assert capsys.readouterr().out.splitlines() == [
        f"no images to train on of the classes {'b, c' if only_held_out else 'b'}",
        f"no images held out of the classes {'b' if only_held_out else 'b, c'}",
    ]
