"""Shapes as a function of (seed, index); CIFAR and ImageNet images as their files say; errors that name files."""

import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from conftest import needs_data
from PIL import Image

from advlib import datasets, shapes
from advlib.datasets import DataError

COMPATIBLE = ("imagenet_compatible/images.csv",)


# --- shapes ---------------------------------------------------------------------------------------------------------


def test_shape_is_the_same_whatever_batch_it_is_made_in():
    index = torch.arange(1_000_000, 1_000_024)
    images, labels, masks = shapes.make(index, with_mask=True)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for rows in (order, torch.tensor([7]), torch.arange(5, 16)):
        for whole, part in zip((images, labels, masks), shapes.make(index[rows], with_mask=True), strict=True):
            assert torch.equal(whole[rows], part)


def test_large_shapes_are_the_same_one_by_one():
    index = torch.arange(6)
    whole = shapes.make(index, 224)
    assert torch.equal(whole[0], torch.cat([shapes.make(i[None], 224)[0] for i in index]))


def test_same_call_twice_gives_the_same_images_and_another_seed_others():
    index = torch.arange(8)
    assert torch.equal(shapes.make(index)[0], shapes.make(index)[0])
    assert not torch.equal(shapes.make(index)[0], shapes.make(index, seed=1)[0])


def test_splits_are_disjoint_ranges():
    ranges = sorted(r[:2] for r in shapes.RANGES.values())
    assert all(stop <= start for (_, stop), (start, _) in zip(ranges[:-1], ranges[1:], strict=True))
    seen = [set(datasets.load("shapes", s, n=50).index.tolist()) for s in ("train", "val", "test")]
    assert len(set.union(*seen)) == 150


def test_all_ten_classes_occur_about_equally_often():
    labels = datasets.load("shapes", "train", n=2000, size=8).labels
    counts = torch.bincount(labels, minlength=10)
    assert len(counts) == 10 == len(shapes.CLASSES) and counts.min() > 140 and counts.max() < 260


@pytest.mark.parametrize("size", [8, 32, 64, 224, 299])
def test_shapes_come_in_any_size(size):
    data = datasets.load("shapes", n=2, size=size)
    assert data.images.shape == (2, 3, size, size) and data.images.dtype == torch.uint8
    assert data.x.min() >= 0 and data.x.max() <= 1 and data.x.dtype == torch.float32


def test_a_size_is_the_same_picture_at_another_resolution():
    small, large = (shapes.make(torch.arange(8), s)[0].float() for s in (32, 64))
    difference = (torch.nn.functional.avg_pool2d(large, 2) - small).abs().mean()
    other = (small.roll(1, 0) - small).abs().mean()
    assert difference < 0.25 * other


def test_every_image_has_a_foreground_and_a_background():
    images, labels, mask = shapes.make(torch.arange(300), with_mask=True)
    area = mask.mean((1, 2, 3))
    assert mask.shape == (300, 1, 32, 32) and mask.min() >= 0 and mask.max() <= 1
    assert area.min() > 0.01 and area.max() < 0.7
    assert torch.isfinite(mask).all() and {labels[i].item() for i in range(300)} == set(range(10))


def test_foreground_is_where_the_classes_paint():
    """The mask marks the saturated object: off it the clutter is near grey."""
    images, _, mask = shapes.make(torch.arange(200), with_mask=True)
    spread = (images.float().amax(1) - images.float().amin(1)) / 255
    inside = (spread * (mask[:, 0] == 1)).sum() / (mask == 1).sum()
    outside = (spread * (mask[:, 0] == 0)).sum() / (mask == 0).sum()
    assert inside > 2 * outside


def test_images_index_slice_and_batch_together():
    data = datasets.load("shapes", n=7)
    parts = list(data.batches(3))
    assert [len(p) for p in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([p.index for p in parts]), data.index)
    assert torch.equal(data[torch.tensor([4, 2])].labels, data.labels[[4, 2]])
    assert torch.equal((data.x * 255).round().to(torch.uint8), data.images)


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"name": "mnist"}, "mnist"),
        ({"name": "shapes", "split": "dev"}, "split"),
        ({"name": "shapes", "n": 0}, "n="),
        ({"name": "shapes", "n": 10**7}, "n="),
        ({"name": "shapes", "size": 4}, "size"),
        ({"name": "imagenet"}, "split"),
        ({"name": "cifar10", "size": 64, "download": False}, "size"),
    ],
)
def test_bad_argument_is_refused_by_name(options, name):
    with pytest.raises(ValueError, match=name):
        datasets.load(**options)


# --- CIFAR ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "data_roots", lambda: [tmp_path])
    return tmp_path


def parquet(root, rows=3, part="test", **columns):
    file = root / "cifar10" / "plain_text" / f"{part}-00000-of-00001.parquet"
    file.parent.mkdir(parents=True)
    png = root / "one.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(png)
    columns = columns or {"img": [{"bytes": png.read_bytes(), "path": None}] * rows, "label": [0] * rows}
    pd.DataFrame(columns).to_parquet(file)
    return file


@needs_data("cifar10")
def test_cifar10_is_as_published():
    data = datasets.load("cifar10", "test", download=False)
    assert data.images.shape == (10_000, 3, 32, 32) and torch.equal(
        torch.bincount(data.labels), torch.full((10,), 1000)
    )
    assert data.labels[:5].tolist() == [3, 8, 8, 0, 6] and data.classes[3] == "cat"
    assert data.images[0, :, 0, 0].tolist() == [158, 112, 49]  # the first pixel of the official archive
    assert data.x.mean((0, 2, 3)).tolist() == pytest.approx([0.4942, 0.4851, 0.4504], abs=1e-3)


def test_val_is_the_end_of_train_and_never_trained_on(monkeypatch):
    labels = np.arange(5_000) % 10
    images = np.zeros((5_000, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(5_000) % 251
    monkeypatch.setattr(datasets, "_cifar_arrays", lambda name, part, download: (images, labels, ("a",) * 10))
    train, val = (datasets.load("cifar10", s) for s in ("train", "val"))
    assert len(val) == 1000 and val.index.tolist() == list(range(4000, 5000)) and len(train) == 4000
    assert not set(train.index.tolist()) & set(val.index.tolist())
    assert torch.equal(val.images[:, 0, 0, 0], torch.from_numpy(np.arange(4000, 5000) % 251).to(torch.uint8))


def test_missing_cifar_names_folder_files_and_command(root):
    with pytest.raises(DataError, match="ADVLIB_DATA") as error:
        datasets.load("cifar10", download=False)
    for part in (str(root / "cifar10"), "cifar-10-batches-py", "parquet", "python -m advlib download cifar10"):
        assert part in str(error.value)


def test_a_download_that_fails_leaves_no_folder_behind(root, monkeypatch):
    def cut_off(folder, **_):
        Path(folder).mkdir(parents=True)
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", cut_off)
    with pytest.raises(DataError, match="python -m advlib download cifar10.* no network"):
        datasets.load("cifar10", download=True)
    assert not list(root.rglob("cifar10"))


def test_truncated_parquet_is_named(root):
    file = parquet(root)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(DataError, match=file.name):
        datasets.load("cifar10", download=False)


def test_parquet_with_too_few_rows_is_named(root):
    file = parquet(root, rows=3)
    with pytest.raises(DataError, match=f"{file.name}: 3 images; expected 10,000"):
        datasets.load("cifar10", download=False)


def test_parquet_with_other_columns_is_named(root):
    file = parquet(root, text=["a"], label=[0])
    with pytest.raises(DataError, match=f"{file.name}: columns"):
        datasets.load("cifar10", download=False)


def test_damaged_official_archive_is_named(root):
    folder = root / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "test_batch").write_bytes(b"half a file")
    with pytest.raises(DataError, match="cifar-10-batches-py"):
        datasets.load("cifar10", download=False)


# --- ImageNet -------------------------------------------------------------------------------------------------------


def compatible(root, labels=(1, 1000), size=(40, 40)):
    folder = root / "imagenet_compatible"
    (folder / "images").mkdir(parents=True)
    with open(folder / "images.csv", "w", newline="") as file:
        csv.writer(file).writerows([("ImageId", "TrueLabel"), *((f"im{k}", v) for k, v in enumerate(labels))])
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    for k in range(len(labels)):
        Image.fromarray(pixels).save(folder / "images" / f"im{k}.png")
    return folder


def test_labels_of_the_compatible_set_count_from_zero(root):
    compatible(root)
    data = datasets.load("imagenet_compatible", size=40)
    assert data.labels.tolist() == [0, 999] and len(data.classes) == 1000 and data.images.shape == (2, 3, 40, 40)
    assert data.classes[0] == "tench"


def test_absent_image_is_skipped_and_the_others_keep_their_index(root):
    folder = compatible(root, labels=(5, 6, 7))
    os.remove(folder / "images" / "im1.png")
    data = datasets.load("imagenet_compatible", size=40)
    assert data.index.tolist() == [0, 2] and data.labels.tolist() == [4, 6]


def test_truncated_image_is_named(root):
    file = compatible(root) / "images" / "im1.png"
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(DataError, match="im1.png"):
        datasets.load("imagenet_compatible")


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        ("no csv", "images.csv"),
        ("no images", "images"),
        ("label 0", "TrueLabel"),
        ("no column", "TrueLabel"),
        ("nothing", "imagenet_compatible not found"),
    ],
)
def test_incomplete_compatible_set_is_named(root, damage, name):
    if damage != "nothing":
        folder = compatible(root, labels=(0, 1) if damage == "label 0" else (1, 2))
    if damage == "no csv":
        os.remove(folder / "images.csv")
    elif damage == "no images":
        for file in (folder / "images").iterdir():
            file.unlink()
    elif damage == "no column":
        (folder / "images.csv").write_text("ImageId\nim0\n")
    with pytest.raises(DataError, match=name):
        datasets.load("imagenet_compatible", size=40)


def test_more_images_than_there_are_is_an_error(root):
    compatible(root)
    with pytest.raises(DataError, match="3 images asked for, 2 found"):
        datasets.load("imagenet_compatible", n=3, size=40)


def test_missing_imagenet_says_how_to_get_it(root):
    with pytest.raises(DataError, match="image-net.org") as error:
        datasets.load("imagenet", "val")
    assert str(root / "imagenet" / "val") in str(error.value)


def test_imagenet_folder_without_all_classes_is_refused(root):
    (root / "imagenet" / "val" / "n01440764").mkdir(parents=True)
    with pytest.raises(DataError, match="1 class folders; expected 1,000"):
        datasets.load("imagenet", "val")


def test_imagenet_folder_labels_are_the_rank_of_the_class_folder(root):
    for k in range(1000):
        (root / "imagenet" / "val" / f"n{k:08d}").mkdir(parents=True)
    for k in (0, 3, 999):
        pixels = np.full((48, 60, 3), k % 256, np.uint8)
        Image.fromarray(pixels).save(root / "imagenet" / "val" / f"n{k:08d}" / "a.JPEG", quality=95)
    data = datasets.load("imagenet", "val", size=32)
    assert data.labels.tolist() == [0, 3, 999] and data.images.shape == (3, 3, 32, 32)
    assert (data.images.float().mean((1, 2, 3)) - torch.tensor([0.0, 3.0, 231.0])).abs().max() < 2


@needs_data(*COMPATIBLE)
def test_compatible_set_on_disk_is_readable():
    data = datasets.load("imagenet_compatible", n=3)
    assert data.images.shape == (3, 3, 299, 299) and data.labels[0] == 559  # TrueLabel 560 in the CSV
