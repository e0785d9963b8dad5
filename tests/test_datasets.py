"""Shapes as a function of (seed, index); CIFAR and ImageNet images as their files say; errors that name files."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from conftest import needs_data
from PIL import Image
from timm.data import ImageNetInfo

from advlib.zoo import datasets, shapes
from advlib.zoo.datasets import DataError

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


# --- what an Images holds -------------------------------------------------------------------------------------------


def held(**changes):
    """Four images of four classes."""
    pixels = torch.arange(4 * 3 * 8 * 8).view(4, 3, 8, 8).to(torch.uint8)
    given = {"images": pixels, "labels": torch.arange(4), "index": torch.arange(4), "classes": tuple("abcd")}
    return datasets.Images(**{**given, "dataset": "shapes", "split": "test", **changes})


def test_reading_the_floats_changes_nothing():
    data = held()
    first, again, once_more = data.x, data.x, data.x
    assert torch.equal(first, data.images / 255) and torch.equal(first, again) and torch.equal(first, once_more)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"images": torch.rand(4, 3, 8, 8)}, "images: expected a uint8 tensor"),
        ({"images": None}, "images"),
        ({"images": np.zeros((4, 3, 8, 8), np.uint8)}, "images"),
        ({"images": torch.zeros(3, 8, 8, dtype=torch.uint8)}, "images: expected shape"),
        ({"images": torch.zeros(4, 3, 0, 8, dtype=torch.uint8)}, "images: expected shape"),
        ({"labels": torch.arange(4).float()}, "labels: expected an int64"),
        ({"labels": torch.arange(4, dtype=torch.int32)}, "labels: expected an int64"),
        ({"labels": [0, 1, 2, 3]}, "labels"),
        ({"labels": torch.arange(3)}, r"labels: expected shape \(4,\)"),
        ({"labels": torch.arange(4) - 1}, "labels: from -1 to 2"),
        ({"labels": torch.arange(4) + 1}, "labels: from 1 to 4, expected 0 to 3"),
        ({"labels": torch.full((4,), -100)}, "labels: from -100"),
        ({"labels": torch.arange(4, device="meta")}, "labels: on meta"),
        ({"index": torch.arange(4).float()}, "index"),
        ({"index": torch.arange(4)[:, None]}, "index"),
        ({"index": torch.arange(4, device="meta")}, "index: on meta"),
    ],
)
def test_what_is_no_labelled_image_is_refused_by_name(changes, named):
    with pytest.raises((TypeError, ValueError), match=named):
        held(**changes)


@pytest.mark.parametrize("rows", [[2, 0], torch.tensor([2, 0]), np.array([2, 0]), torch.tensor([2, 0]).to(torch.uint8)])
def test_rows_by_number(rows):
    assert held()[rows].labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [(slice(1, 3), [1, 2]), (range(3, 1, -1), [3, 2]), (torch.arange(4) > 2, [3]), ([], []), ([False] * 4, [])],
)
def test_rows_by_range_and_by_bools(rows, chosen):
    assert held()[rows].labels.tolist() == chosen


@pytest.mark.parametrize("rows", ["a", 3, 1.5, None, torch.tensor([0.5]), torch.tensor([[0]]), {}, (0, 1), ["a"]])
def test_rows_that_are_none_are_refused(rows):
    with pytest.raises(TypeError, match="rows"):
        held()[rows]


def test_bools_for_another_number_of_images_are_refused():
    with pytest.raises(IndexError, match="rows: 1 bools for 4 images"):
        held()[torch.tensor([True])]


@pytest.mark.parametrize("size", [0, -1, 1.5, None, "a", True])
def test_a_batch_of_no_images_is_refused_at_once_and_not_empty(size):
    with pytest.raises((TypeError, ValueError), match="size"):
        held().batches(size)


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"name": "mnist"}, "mnist"),
        ({"name": "shapes", "split": "dev"}, "split"),
        ({"name": "shapes", "n": 0}, "n="),
        ({"name": "shapes", "n": 10**7}, "n="),
        ({"name": "shapes", "n": 2.5}, "n="),
        ({"name": "shapes", "n": True}, "n="),
        ({"name": "shapes", "n": "a"}, "n="),
        ({"name": "shapes", "size": 0}, "size=0"),
        ({"name": "shapes", "size": -8}, "size"),
        ({"name": "shapes", "size": 10**6}, "size"),
        ({"name": "shapes", "size": 32.0}, "size"),
        ({"name": 42}, "name"),
        ({"name": "shapes", "split": None}, "split"),
        ({"name": "shapes", "download": "yes"}, "download"),
        ({"name": "shapes", "size": 4}, "size"),
        ({"name": "imagenet"}, "split"),
        ({"name": "cifar10", "size": 64, "download": False}, "size"),
    ],
)
def test_bad_argument_is_refused_by_name(options, name):
    with pytest.raises((TypeError, ValueError), match=name):
        datasets.load(**options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"index": torch.rand(3)}, "index"),
        ({"index": [1, 2]}, "index"),
        ({"index": torch.zeros(2, 2, dtype=torch.int64)}, "index"),
        ({"index": torch.tensor([True])}, "index"),
        ({"size": 7}, "size"),
        ({"size": 32.0}, "size"),
        ({"seed": 1.5}, "seed"),
        ({"with_mask": 1}, "with_mask"),
    ],
)
def test_shapes_are_made_of_whole_numbers(options, named):
    with pytest.raises((TypeError, ValueError), match=named):
        shapes.make(**{"index": torch.arange(2), **options})
    with pytest.raises(ValueError, match="split"):
        shapes.indices("dev")


def test_a_place_for_unknown_data_is_refused():
    with pytest.raises(ValueError, match="name='mnist'"):
        datasets.locate("mnist")


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


def balanced(monkeypatch, n=20):
    """n images are a whole split; labels and cells that are well."""
    monkeypatch.setattr(datasets, "_NUMBER", {"train": n, "test": n})
    picture = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), 7, np.uint8)).save(picture, "PNG")
    return [k % 10 for k in range(n)], [{"bytes": picture.getvalue(), "path": None} for _ in range(n)]


@pytest.mark.parametrize("label", [-1, 10, 255, -100, 3.7, float("nan"), "a", None, 1])
def test_labels_that_no_image_has_are_named(root, monkeypatch, label):
    labels, cells = balanced(monkeypatch)
    wanted = "images of class" if label == 1 else "in row 0; expected whole numbers from 0 to 9"
    labels = [label, *labels[1:]]
    file = parquet(root, img=cells, label=[str(v) for v in labels] if label == "a" else labels)
    with pytest.raises(DataError, match=f"{file.name}: .*{wanted}"):
        datasets.load("cifar10", download=False)


@pytest.mark.parametrize("damage", ["checksum", "truncated", "none", "no image", "no cell"])
def test_an_image_that_is_damaged_is_named_by_row(root, monkeypatch, damage):
    labels, cells = balanced(monkeypatch)
    raw = cells[3]["bytes"]
    at = raw.index(b"IDAT") + 6  # inside the compressed pixels
    flipped = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
    broken = {"checksum": flipped, "truncated": raw[:60], "none": None, "no image": b"text", "no cell": None}[damage]
    cells[3] = None if damage == "no cell" else {"bytes": broken, "path": None}
    file = parquet(root, img=cells, label=labels)
    with pytest.raises(DataError, match=f"{file.name}, row 3: "):
        datasets.load("cifar10", download=False)


def test_a_whole_file_is_read_as_it_is(root, monkeypatch):
    labels, cells = balanced(monkeypatch)
    parquet(root, img=cells, label=labels)
    data = datasets.load("cifar10", download=False)
    assert data.labels.tolist() == labels and (data.images == 7).all() and data.index.tolist() == list(range(20))


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


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not a CSV file"),
        ("ImageId,TrueLabel\nim0,é\n".encode("latin-1"), "not a CSV file"),
        ("ImageId,TrueLabel\nim0,3\n".encode("utf-16"), "not a CSV file"),
        (b'ImageId,TrueLabel\n"im0,3\n', "not a CSV file"),
        (b"TrueLabel\n3\n", "no column ImageId"),
        (b"ImageId,TrueLabel\nim0,abc\n", "TrueLabel: 'abc' in row 0; expected whole numbers from 1 to 1000"),
        (b"ImageId,TrueLabel\nim0,3\nim1,3.7\n", "TrueLabel: .*3.7.* in row 1"),
        (b"ImageId,TrueLabel\nim0,\n", "TrueLabel: .*nan.* in row 0"),
        (b"ImageId,TrueLabel\nim0,1001\n", "TrueLabel: .*1001.* in row 0"),
    ],
)
def test_a_damaged_list_of_images_is_named(root, content, what):
    (compatible(root) / "images.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"images.csv: .*{what}"):
        datasets.load("imagenet_compatible", size=40)


def test_a_name_of_digits_keeps_its_zeros(root):
    folder = compatible(root)
    os.rename(folder / "images" / "im0.png", folder / "images" / "007.png")
    (folder / "images.csv").write_text("ImageId,TrueLabel\n007,3\n")
    assert datasets.load("imagenet_compatible", size=40).labels.tolist() == [2]


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


WNIDS = ImageNetInfo().label_names()


def imagenet(root, each=1, classes=range(1000)):
    """The thousand folders, with `each` grey images in some of them; the level is the class, modulo 256."""
    for k, wnid in enumerate(WNIDS):
        folder = root / "imagenet" / "val" / wnid
        folder.mkdir(parents=True)
        for i in range(each if k in classes else 0):
            Image.fromarray(np.full((9, 12, 3), k % 256, np.uint8)).save(folder / f"{i}.JPEG", quality=95)
    return root / "imagenet" / "val"


@pytest.mark.parametrize(
    ("damage", "what"), [("missing", "999 class"), ("renamed", "1000 class"), ("more", "1001 class")]
)
def test_imagenet_folders_that_are_not_the_thousand_are_refused(root, damage, what):
    """A folder of another name would shift the labels of all that follow it."""
    folder = imagenet(root, 0)
    if damage == "missing":
        (folder / WNIDS[5]).rmdir()
    elif damage == "renamed":
        (folder / WNIDS[5]).rename(folder / "n00000005")
    else:
        (folder / "copies").mkdir()
    with pytest.raises(DataError, match=f"{what} folders; expected those of the 1,000 WordNet ids"):
        datasets.load("imagenet", "val")


def test_imagenet_folders_without_images_are_refused(root):
    (imagenet(root, 0) / WNIDS[0] / "notes.txt").touch()
    with pytest.raises(DataError, match="no .JPEG files"):
        datasets.load("imagenet", "val")


def test_imagenet_labels_are_the_rank_of_the_folder_and_the_index_is_the_place_in_the_sorted_list(root):
    imagenet(root, 2, (0, 3, 999))
    data = datasets.load("imagenet", "val", size=8)
    assert sorted(data.index.tolist()) == list(range(6)) and data.images.shape == (6, 3, 8, 8)
    assert data.labels.tolist() == [[0, 0, 3, 3, 999, 999][i] for i in data.index]
    assert ((data.images.float().mean((1, 2, 3)) - data.labels % 256).abs() < 2).all()


def test_any_slice_of_the_imagenet_folder_is_a_sample_of_all_classes(root):
    imagenet(root)
    few, more = datasets.load("imagenet", "val", n=60, size=8), datasets.load("imagenet", "val", n=100, size=8)
    assert torch.equal(more[:60].index, few.index) and len(set(more.labels.tolist())) == 100
    for part in (few[:30], few[30:], more[60:]):  # of uniform labels the mean lies within 4 standard errors of 499.5
        assert abs(part.labels.float().mean() - 499.5) < 4 * 288.7 / len(part) ** 0.5


@needs_data(*COMPATIBLE)
def test_compatible_set_on_disk_is_readable():
    data = datasets.load("imagenet_compatible", n=3)
    assert data.images.shape == (3, 3, 299, 299) and data.labels[0] == 559  # TrueLabel 560 in the CSV
