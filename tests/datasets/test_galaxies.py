"""Galaxies: what is drawn, what is cut out, what is read."""

import gzip
import hashlib
import math
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pooch
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from saehelpers.datasets.galaxies import (
    CLASSES,
    Survey,
    draw_galaxy,
    galaxy_mnist,
    load_galaxies,
    load_galaxy_mnist,
    load_hubble,
    match_sky,
    measure_galaxies,
    simulate_galaxies,
    survey_statistics,
)
from saehelpers.datasets.galaxies.base import read_hdf5, write_hdf5
from saehelpers.datasets.galaxies.sky import measure_sky
from saehelpers.runs import identity

REFERENCE = Path(__file__).parents[2] / "data" / "reference"
SIZE = 64
NONE = {name: (0.0, 0.0) for name in ("stars", "companions", "noise", "sky")}
SHARP = Survey(
    **NONE, radius=(0.08, 0.08), brightness=(20.0, 20.0), seeing=(0.01, 0.01),
    jpeg_quality=(100.0, 100.0),
)  # fmt: skip


def moments(image: np.ndarray) -> tuple[float, float]:
    """Axis ratio and angle of what is brighter than the sky, by second moments."""
    light = image.astype(float).sum(-1)
    light = np.clip(light - np.median(light) - 3 * light[:8].std(), 0, None)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    near = np.hypot(x, y) < SIZE * 0.35
    weight = light * near
    xx, yy, xy = ((weight * m).sum() / weight.sum() for m in (x * x, y * y, x * y))
    spread = math.hypot((xx - yy) / 2, xy)
    mean = (xx + yy) / 2
    return math.sqrt((mean - spread) / (mean + spread)), 0.5 * math.atan2(2 * xy, xx - yy) % math.pi


@pytest.fixture(scope="module")
def drawn() -> dict[str, list]:
    return {kind: [draw_galaxy(kind, SIZE, (7, i)) for i in range(12)] for kind in CLASSES}


@pytest.mark.parametrize("kind", CLASSES)
def test_drawn_galaxies_are_images_with_one_in_the_middle(drawn, kind):
    for image, row in drawn[kind]:
        assert (image.shape, image.dtype) == ((SIZE, SIZE, 3), np.uint8)
        assert image[28:36, 28:36].mean() > 2 * image[:6].mean()
        assert 0 < row["axis_ratio"] <= 1
        assert 0 <= row["angle"] < math.pi


def test_shapes_of_the_classes_are_what_their_names_say(drawn):
    ratio = {kind: np.median([moments(image)[0] for image, _ in drawn[kind]]) for kind in CLASSES}
    assert ratio["smooth_round"] > 0.75
    assert ratio["unbarred_spiral"] > 0.6
    assert ratio["smooth_cigar"] < 0.6
    assert ratio["edge_on_disk"] < 0.45


@pytest.mark.parametrize("kind", ["smooth_cigar", "edge_on_disk"])
def test_angle_is_that_of_the_long_axis(drawn, kind):
    off = [abs(moments(image)[1] - row["angle"]) for image, row in drawn[kind]]
    assert np.median([min(angle, math.pi - angle) for angle in off]) < 0.1


def test_spirals_are_bluer_outside_and_ellipticals_red(drawn):
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    ring = (np.hypot(x, y) > 7) & (np.hypot(x, y) < 14)

    def red_over_blue(kind):
        red, blue = (np.mean([image[ring, c].mean() for image, _ in drawn[kind]]) for c in (0, 2))
        return red / blue

    assert red_over_blue("unbarred_spiral") < 1.1 < red_over_blue("smooth_round")


def test_same_seed_same_galaxy():
    one, same, other = (draw_galaxy("unbarred_spiral", SIZE, (0, i))[0] for i in (3, 3, 4))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


class NotAsked:
    def submit(self, *_):
        raise AssertionError


def test_simulated_galaxies_are_drawn_once(tmp_path):
    with ThreadPoolExecutor(1) as executor:
        first = simulate_galaxies(10, tmp_path, 32, seed=1, executor=executor)
    assert first.images.shape == (10, 3, 32, 32)
    assert first.labels.tolist() == [0, 1, 2, 3] * 2 + [0, 1]
    assert list(first.properties) == ["angle", "axis_ratio", "radius"]
    expected, _ = draw_galaxy(CLASSES[1], 32, (1, 5))
    assert np.array_equal(first.images[5].permute(1, 2, 0).numpy(), expected)
    again = simulate_galaxies(10, tmp_path, 32, seed=1, executor=NotAsked())
    assert torch.equal(first.images, again.images)
    assert first.properties.equals(again.properties)
    (path,) = tmp_path.iterdir()
    write_hdf5(path, first.images, first.labels, pd.DataFrame())
    with pytest.raises(ValueError, match=r"holds other galaxies, \(10, 3, 32, 32\): delete it"):
        simulate_galaxies(10, tmp_path, 32, seed=1, executor=Executor())
    other = Survey(noise=(0.1, 0.2))
    with ThreadPoolExecutor(1) as executor:
        others = simulate_galaxies(10, tmp_path, 32, seed=1, executor=executor, survey=other)
    assert identity(others.images) != identity(first.images)
    assert not torch.equal(others.images, first.images)


def test_the_same_galaxy_as_two_surveys_see_it():
    seen = [
        draw_galaxy("unbarred_spiral", SIZE, 3, replace(SHARP, seeing=(width, width)))
        for width in (0.015, 0.06)
    ]
    (near, of_near), (far, of_far) = seen
    assert of_near == of_far
    near, far = near.astype(float), far.astype(float)
    assert np.corrcoef(near.ravel(), far.ravel())[0, 1] > 0.9
    detail = [(image - gaussian_filter(image, (2, 2, 0))).std() for image in (near, far)]
    assert detail[0] > 1.2 * detail[1]


def test_pictures_follow_the_formula_of_the_survey():
    fixed = {"black": (0.5, 0.5), "white": (300.0, 300.0), "desaturation": (0.0, 0.0)}
    silent = {"noise": (0.0, 0.0), "sky": (0.0, 0.0), "jpeg_quality": (100.0, 100.0)}
    flux = np.ones((16, 16, 3)) * np.array([40.0, 10.0, 0.0])
    draw = np.random.default_rng
    plain = Survey(**fixed | silent).photograph(flux, draw(0))
    level = (np.arcsinh(flux) + np.arcsinh(0.5)) / (np.arcsinh(300) + np.arcsinh(0.5))
    assert np.abs(plain - 255 * level).max() < 3  # grey levels of the JPEG
    greyer = Survey(**fixed | silent | {"desaturation": (1.0, 1.0)}).photograph(flux, draw(0))
    assert np.ptp(greyer[8, 8].astype(int)) < 0.75 * np.ptp(plain[8, 8].astype(int))


@pytest.mark.parametrize(
    "ranges, message",
    [
        ({"noise": (0.3, 0.1)}, r"noise must be from low to high, got \(0.3, 0.1\)"),
        ({"seeing": (-0.1, 0.1)}, "seeing must be 0 or more, got -0.1"),
        ({"noise_colours": (0.5, 1.2)}, "noise_colours must be 1 or less, got 1.2"),
    ],
)
def test_ranges_that_no_survey_has(ranges, message):
    with pytest.raises(ValueError, match=message):
        Survey(**ranges)


@pytest.fixture(scope="module")
def statistics() -> pd.DataFrame:
    images = [draw_galaxy(CLASSES[i % 4], SIZE, (5, i))[0] for i in range(400)]
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    with ThreadPoolExecutor(1) as executor:
        ours = survey_statistics(images, executor)
    published = pd.read_csv(REFERENCE / "galaxy_mnist_statistics.csv", index_col="quantity").value
    return pd.DataFrame({"survey": published, "ours": ours}).drop("n")


def test_simulated_galaxies_look_like_those_of_the_survey(statistics):
    medians = statistics[~statistics.index.str.contains("_p10|_p90|lag2")]
    assert ((medians.ours / medians.survey - 1).abs() < 0.15).all()
    lag2 = statistics.loc["noise_corr_lag2"]
    assert abs(lag2.ours - lag2.survey) < 0.03


def test_the_survey_is_inside_what_is_simulated(statistics):
    low, high = (statistics[statistics.index.str.endswith(end)] for end in ("_p10", "_p90"))
    assert len(low) == len(high) == 7
    assert (low.ours < low.survey).all() and (high.ours > high.survey).all()


def test_hubble_cutouts():
    found = load_hubble(48)
    assert found.source == "hubble"
    assert found.labels is None
    assert len(found.images) >= 100
    assert found.images.shape[1:] == (3, 48, 48)
    assert len(found.properties) == len(found.images)
    assert found.properties["ellipticity"].between(0, 1).all()
    assert found.properties["angle"].between(0, math.pi).all()
    middle = found.images[:, :, 18:30, 18:30].float().mean((1, 2, 3))
    edge = found.images[:, :, :6].float().mean((1, 2, 3))
    assert (middle > edge).float().mean() > 0.98


def write_file(path, **content):
    if not content:
        content = {"images": np.zeros((8, 64, 64, 3), np.uint8), "labels": np.arange(8) % 4}
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file[name] = value


def test_local_copy_of_galaxy_mnist(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    write_file(tmp_path / "train_dataset.hdf5", images=images, labels=np.arange(8) % 4)
    write_file(tmp_path / "test_dataset.hdf5", images=images[:2], labels=np.array([3, 0]))
    found = load_galaxies("galaxy_mnist", tmp_path)
    assert found.images.shape == (10, 3, 64, 64)
    assert np.array_equal(found.images[2].permute(1, 2, 0).numpy(), images[2])
    assert found.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 3, 0]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small archive instead of the published one, and a download that copies it."""
    write_file(tmp_path / "published.hdf5")
    archive = gzip.compress((tmp_path / "published.hdf5").read_bytes())

    def copy(url, output_file, downloader, check_only=False):
        Path(output_file).write_bytes(archive)

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda url, progressbar=False: copy)
    right = hashlib.md5(archive).hexdigest()
    wrong = {part: (f"{part}.gz", "0" * 32) for part in ("train", "test")}
    files = {64: {part: (f"{part}.gz", right) for part in ("train", "test")}, 224: wrong}
    monkeypatch.setattr(galaxy_mnist, "FILES", files)
    return tmp_path / "data"


def test_download_is_verified_and_unpacked(published):
    assert load_galaxy_mnist(published).images.shape == (16, 3, 64, 64)
    assert (published / "train_dataset.hdf5").exists()
    assert load_galaxy_mnist(published).images.shape == (16, 3, 64, 64)


def test_download_with_another_checksum_is_not_kept(published):
    with pytest.raises(ValueError, match="does not match the known hash"):
        load_galaxy_mnist(published, 224)
    assert not list(published.glob("*hdf5*"))


def test_no_network_and_no_copy(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr(galaxy_mnist.pooch, "retrieve", fail)
    with pytest.raises(FileNotFoundError, match=r"Put a copy there .*source 'simulated'"):
        load_galaxies("galaxy_mnist", tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"pictures": np.zeros(3)}, "has no key 'images'; it has"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8)}, "has no key 'labels'"),
        ({"images": np.zeros((2, 8, 9, 3), np.uint8), "labels": [0, 1]}, r"must be \(n, s, s, 3\)"),
        ({"images": np.zeros((2, 8, 8, 3)), "labels": [0, 1]}, "must be uint8, they are float64"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": [0]}, "2 images and labels of"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": [0, 4]}, "0 to 3, they are 0 to 4"),
    ],
)
def test_files_that_hold_something_else(tmp_path, content, message):
    write_file(tmp_path / "galaxies.hdf5", **content)
    with pytest.raises(ValueError, match=message):
        read_hdf5(tmp_path / "galaxies.hdf5")


def test_file_that_is_cut_short(tmp_path):
    path = tmp_path / "galaxies.hdf5"
    write_file(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="damaged or cut short"):
        read_hdf5(path)


def test_images_of_another_size(tmp_path):
    write_file(tmp_path / "train_dataset.hdf5")
    with pytest.raises(ValueError, match="images of 64 pixels, 224 were asked for"):
        load_galaxy_mnist(tmp_path, 224)
    with pytest.raises(ValueError, match="sizes 64, 224, not 100"):
        load_galaxy_mnist(tmp_path, 100)


def test_unknown_source(tmp_path):
    with pytest.raises(ValueError, match="'sdss': neither a folder nor one of simulated"):
        load_galaxies("sdss", tmp_path)


def test_folder_of_images_as_source(tmp_path):
    (tmp_path / "round").mkdir()
    Image.new("RGB", (30, 20), (1, 2, 3)).save(tmp_path / "round" / "a.png")
    found = load_galaxies(str(tmp_path), tmp_path, size=16)
    assert (found.images.shape, found.classes) == ((1, 3, 16, 16), ("round",))
    assert found.images[0, :, 3, 5].tolist() == [1, 2, 3]
    (tmp_path / "round" / "b.png").write_text("no image")
    with pytest.raises(ValueError, match=r"b\.png cannot be read"):
        load_galaxies(str(tmp_path), tmp_path, size=16)
    assert len(load_galaxies(str(tmp_path), tmp_path, size=16, skip_unreadable=True).images) == 1


def measured(images: np.ndarray) -> pd.DataFrame:
    images = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
    with ThreadPoolExecutor(1) as executor:
        return measure_galaxies(images, executor)


def test_measured_shapes_of_drawn_galaxies_are_known(monkeypatch):
    monkeypatch.setattr("saehelpers.datasets.galaxies.measured.CHUNK", 5)  # in their order
    images, rows = zip(
        *(draw_galaxy("smooth_cigar", SIZE, (7, i), SHARP) for i in range(12)), strict=True
    )
    found, known = measured(np.stack(images)), pd.DataFrame(rows)
    assert found["angle"].between(0, math.pi).all()
    off = (found["angle"] - known["angle"]).abs()
    assert np.minimum(off, math.pi - off).max() < 0.05
    assert (1 - found["ellipticity"] - known["axis_ratio"]).abs().max() < 0.05
    assert found["semimajor"].between(0.05, 0.35).all()


def test_measured_shapes_turn_with_the_image(drawn):
    images = np.stack([image for image, _ in drawn["smooth_cigar"] + drawn["edge_on_disk"]])
    found, turned = measured(images), measured(np.rot90(images, axes=(1, 2)))
    assert len(found) == 24 and found.notna().all(axis=None)
    for name in ("ellipticity", "semimajor", "concentration"):
        assert turned[name].tolist() == pytest.approx(found[name].tolist(), rel=1e-6)
    assert np.cos(2 * (turned["angle"] - found["angle"])).max() == pytest.approx(-1, abs=1e-6)


def test_nothing_to_measure():
    assert measured(np.zeros((2, SIZE, SIZE, 3), np.uint8)).isna().all(axis=None)


def noisy(n, level, noise, seed):
    drawn = np.random.default_rng(seed).normal(level, noise, (n, 3, SIZE, SIZE))
    return torch.from_numpy(np.clip(np.round(drawn), 0, 255).astype(np.uint8))


def test_skies_are_measured_and_matched():
    dark, bright = noisy(6, 40, 8, 0), noisy(5, 90, 15, 1)
    dark[:, :, 24:40, 24:40] += 100  # a galaxy, which is no sky
    matched = match_sky(dark, bright)
    for images, level, noise in ((dark, 40, 8), (bright, 90, 15), (matched, 90, 15)):
        levels, noises = measure_sky(images.numpy().astype(np.float32))
        assert levels.shape == noises.shape == (len(images), 3)
        assert abs(levels - level).max() < 3 and abs(noises - noise).max() < 0.15 * noise
    brightness = matched[:, :, 24:40, 24:40].float().mean() - matched[:, :, :16].float().mean()
    assert brightness.item() == pytest.approx(100, abs=2)
    assert torch.equal(match_sky(dark, bright), matched)


def smoothed(n, noise, seed):
    """Noise that neighbours and bands share."""
    drawn = np.random.default_rng(seed).normal(size=(n, 4, SIZE, SIZE))
    drawn = drawn[:, 3:] + 0.7 * drawn[:, :3]
    drawn = gaussian_filter(drawn, (0, 0, 0.6, 0.6), mode="wrap")
    return torch.from_numpy(np.uint8(np.round(60 + noise * drawn / drawn.std())))


def test_matched_noise_is_correlated_as_that_of_the_others():
    like, still = smoothed(40, 9, 0), torch.full((60, 3, SIZE, SIZE), 20, dtype=torch.uint8)
    with ThreadPoolExecutor(1) as executor:
        wanted, found, white = (
            survey_statistics(images, executor)
            for images in (like, match_sky(still, like), noisy(40, 60, 9, 0))
        )
    names = ["noise_corr_neighbour", "noise_corr_lag2", "noise_corr_colours"]
    assert (wanted[names[0]], wanted[names[2]]) > (0.3, 0.6)
    assert found[names].tolist() == pytest.approx(wanted[names].tolist(), abs=0.05)
    assert found["sky_noise"] == pytest.approx(9, rel=0.15)
    assert white[names].abs().max() < 0.05


def test_noise_is_never_taken_away():
    rough, smooth = noisy(4, 60, 12, 0), noisy(4, 30, 2, 1)
    _, noises = measure_sky(match_sky(rough, smooth).numpy().astype(np.float32))
    assert abs(noises - 12).max() < 1.5
