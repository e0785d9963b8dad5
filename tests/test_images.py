"""Images on disk are inside the ball to the last bit, and lossless."""

import math

import numpy as np
import pytest
import torch
from conftest import grid_images
from PIL import Image

from advlib import attacks, save_images
from advlib.zoo.pictures import to_uint8


def levels(files):
    return torch.from_numpy(np.stack([np.asarray(Image.open(f)) for f in files])).permute(0, 3, 1, 2).int()


@pytest.mark.parametrize("eps_255", [0, 1, 2.5, 4, 8, 16])
@pytest.mark.parametrize("kind", ["corner", "inside"])
def test_read_back_images_are_inside_the_ball(eps_255, kind, tmp_path):
    x, eps = grid_images(3), eps_255 / 255
    noise = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 1
    adv = (x + eps * (noise.sign() if kind == "corner" else noise)).clamp(0, 1)
    files = save_images(adv, x, eps, tmp_path / "new" / "folder", ["a", "b", "c"])
    difference = (levels(files) - (x * 255).round().int()).abs()
    assert [f.name for f in files] == ["a.png", "b.png", "c.png"]
    assert difference.max() <= math.floor(eps_255)
    assert (levels(files) - adv * 255).abs().max() < 1 + 1e-3
    if kind == "corner" and eps_255 >= 1:
        assert difference.max() == math.floor(eps_255)  # nothing of the budget is lost


@pytest.mark.parametrize("eps_255", [4, 8, 16])
def test_attack_of_whole_steps_survives_the_disk_exactly(eps_255, model, x, y, tmp_path):
    adv = attacks.fgsm(model, x, y, eps_255 / 255)
    files = save_images(adv, x, eps_255 / 255, tmp_path, list("abcd"))
    assert torch.equal(levels(files), (adv * 255).round().int())


def test_rounding_goes_toward_the_clean_image():
    x = torch.full((1, 3, 8, 8), 100 / 255)
    for shift, level in ((2.9, 102), (-2.9, 98), (0.9, 100), (3.0, 103), (-3.0, 97)):
        assert (to_uint8(x + shift / 255, x, 3 / 255) == level).all()


def test_clean_images_are_written_without_a_change(x, tmp_path):
    assert torch.equal(levels(save_images(x, x, 0, tmp_path, list("abcd"))), (x * 255).round().int())


def test_image_beyond_eps_is_refused(x, tmp_path):
    with pytest.raises(ValueError, match="adv"):
        save_images((x + 9 / 255).clamp(0, 1), x, 8 / 255, tmp_path, list("abcd"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [1.02, -0.02, float("nan")])
def test_adv_that_is_no_image_is_refused(value, x, tmp_path):
    adv = x.clone()
    adv[:, :, 0, 0 if value < 0 else 1] = value  # black and white pixels
    with pytest.raises(ValueError, match="adv"):
        save_images(adv, x, 8 / 255, tmp_path, list("abcd"))


def test_clean_image_off_the_grid_is_refused(x, tmp_path):
    with pytest.raises(ValueError, match="x: not an 8-bit image"):
        save_images(x, x * 0.999, 8 / 255, tmp_path, list("abcd"))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_colour_come_back(channels, tmp_path):
    x = grid_images(2, 8, 5).repeat(1, 2, 1, 1)[:, :channels]
    for file, image in zip(save_images(x, x, 0, tmp_path, ["a", "b"]), x, strict=True):
        back = torch.from_numpy(np.array(Image.open(file))).reshape(8, 5, channels).permute(2, 0, 1)
        assert torch.equal(back, (image * 255).round().to(torch.uint8))


def test_more_channels_than_a_file_holds_are_refused(tmp_path):
    x = grid_images(1).repeat(1, 2, 1, 1)
    with pytest.raises(ValueError, match="adv: 6 channels"):
        save_images(x, x, 0, tmp_path, ["a"])


def test_names_may_have_folders(x, tmp_path):
    files = save_images(x, x, 0, tmp_path, ["n01/a", "n02/a", "n02/b", "c"])
    assert [str(f.relative_to(tmp_path)) for f in files] == ["n01/a.png", "n02/a.png", "n02/b.png", "c.png"]
    assert torch.equal(levels(files), (x * 255).round().int())
    assert sorted(f for f in tmp_path.rglob("*") if f.is_file()) == sorted(files)  # nothing half written stays


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["a"], "names: 1 for 4"),
        (list("abca"), "names: .*a.png more than once"),
        (["a", "b", "c", "./a"], "names: .*a.png more than once"),
        (["a", "b", "c", "../d"], r"names\[3\]"),
        (["a", "n01/../../d", "b", "c"], r"names\[1\]"),
        (["/tmp/a", "b", "c", "d"], r"names\[0\]"),
        (["", "b", "c", "d"], r"names\[0\]"),
        (["a", ".", "c", "d"], r"names\[1\]"),
        (["a\0", "b", "c", "d"], r"names\[0\]"),
        ([1, 2, 3, 4], r"names\[0\]"),
        ("abcd", "names"),
        (None, "names"),
    ],
)
def test_names_that_are_no_names_of_files_inside_the_folder_are_refused(names, named, x, tmp_path):
    with pytest.raises((TypeError, ValueError), match=named):
        save_images(x, x, 0, tmp_path / "images", names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"adv": None}, "adv"),
        ({"adv": [1.0]}, "adv"),
        ({"adv": grid_images()[:, :, :4]}, "adv: shape"),
        ({"adv": grid_images().long()}, "adv"),
        ({"x": None}, "x"),
        ({"x": torch.full((4, 3, 8, 8), float("nan"))}, "x: contains NaN"),
        ({"x": grid_images()[0]}, "x"),
        ({"eps": None}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"eps": 8}, "eps"),
        ({"eps": -0.1}, "eps"),
        ({"eps": torch.ones(4)}, "eps"),
        ({"folder": 3}, "folder"),
    ],
)
def test_what_cannot_be_saved_is_refused_by_name(options, named, x, tmp_path):
    given = {"adv": x, "x": x, "eps": 0, "folder": tmp_path, "names": list("abcd")} | options
    with pytest.raises((TypeError, ValueError), match=named):
        save_images(**given)
    assert not list(tmp_path.iterdir())
