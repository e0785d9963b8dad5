"""Training and testing on folders of images: 64 of `shapes`, two processes."""

import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from advlib.training import fitting, imagenet, recipes
from advlib.zoo import datasets
from advlib.zoo.datasets import DataError


def write(path, split, n, classes=10):
    data = datasets.load("shapes", split, n)
    for image, label, index in zip(data.images, data.labels.tolist(), data.index.tolist(), strict=True):
        if label < classes:
            file = path / f"n{label:08d}" / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    write(root / "imagenet/train", "train", 64)
    write(root / "imagenet/val", "val", 100)
    for severity in ("1", "2"):
        write(root / "c/noise" / severity, "test", 40)
    write(root / "r", "test", 60, classes=3)
    return root


class Colour(nn.Module):
    """Ten logits from the mean colour; BatchNorm as in a real one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 10, 3, 2))

    def forward(self, x):
        return self.net(x).mean((2, 3))


PLAN = recipes.Recipe(epochs=2, batch_size=16, lr=0.05, bf16=False, schedule="cosine")


def test_killed_training_goes_on_to_the_same_weights(root, tmp_path, monkeypatch):
    def fitted(out):
        net = Colour()
        history = imagenet.fit(net, root / "imagenet", PLAN, tmp_path / out, size=32, workers=0)
        return net.state_dict(), history

    straight, history = fitted("straight")
    save = fitting.State.save

    def killed(state, path, rows):
        save(state, path, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting.State, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        fitted("killed")
    monkeypatch.setattr(fitting.State, "save", save)
    resumed, again = fitted("killed")
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)
    assert [r["epoch"] for r in again] == [1, 2] and again[0]["loss"] == history[0]["loss"]
    kept = torch.load(tmp_path / "killed/weights.pt", weights_only=True)
    assert all(torch.equal(kept[k], straight[k]) for k in kept)


def test_accuracy_on_corrupted_and_rendered_folders_counts_by_class_name(root):
    class Oracle(nn.Module):
        """Always the class of the folder n00000001, and n00000009 above it where that may compete."""

        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([0.0, 1, 0, 0, 0, 0, 0, 0, 0, 2]))

        def forward(self, x):
            return self.logits.expand(len(x), 10)

    table = imagenet.robustness(Oracle(), root / "imagenet", root / "c", root / "r", size=32, workers=0)
    val, test = datasets.load("shapes", "val", 100).labels, datasets.load("shapes", "test", 40).labels
    among = datasets.load("shapes", "test", 60).labels
    among = among[among < 3]
    wanted = [val == 9, torch.cat([test == 9] * 2), among == 1]
    assert table.dataset.tolist() == ["ImageNet-1k", "ImageNet-C", "ImageNet-R"]
    assert table.value.tolist() == pytest.approx([100 * w.double().mean().item() for w in wanted])
    assert table.n.tolist() == [len(w) for w in wanted]
    assert ((table.ci_low <= table.value) & (table.value <= table.ci_high)).all()


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(DataError, match="train: missing"):
        imagenet.fit(Colour(), tmp_path, PLAN, tmp_path)
    with pytest.raises(DataError, match="<corruption>/<severity>"):
        imagenet.robustness(Colour(), root / "imagenet", tmp_path, size=32, workers=0)
    write(tmp_path / "few", "val", 40, classes=2)
    (tmp_path / "val").symlink_to(tmp_path / "few")
    with pytest.raises(DataError, match="classes that .*val does not have: n00000002"):
        imagenet.robustness(Colour(), tmp_path, rendered=root / "r", size=32, workers=0)
    (tmp_path / "train").symlink_to(root / "imagenet/train")
    with pytest.raises(DataError, match="train has 10 classes, val other ones: 2"):
        imagenet.fit(Colour(), tmp_path, PLAN, tmp_path, size=32, workers=0)
    with pytest.raises(ValueError, match="batch_size=128: larger"):
        imagenet.fit(Colour(), root / "imagenet", recipes.Recipe(bf16=False), tmp_path, size=32, workers=0)
    with pytest.raises(ValueError, match="ViT-L"):
        imagenet.create("ViT-L", 10, 224)


def test_recipes_of_table_5_3_and_random_sam_like_sam():
    plan = imagenet.recipe("ResNet-101", "R-SAM")
    assert plan.facts()["wrapper"] == {"name": "RandomSAM", "rho": 0.1} and plan.epochs == 90
    assert imagenet.recipe("ResNet-50", "SGD").wrapper is None


def files(root):
    """The command line's options for the folders of `root`, on small images."""
    return ["--data", str(root / "imagenet"), "--model", "ResNet-50", "--size", "32", "--workers", "0"]


def said(arguments, capsys):
    """What the command says on its way out with status 2: one line."""
    with pytest.raises(SystemExit) as stopped:
        imagenet.main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_command_says_in_a_line_what_is_missing(root, tmp_path, capsys):
    (tmp_path / "no/class").mkdir(parents=True)
    where = ["--model", "ResNet-50", "--out", str(tmp_path / "out")]
    train = ["train", "--data", str(tmp_path / "nowhere"), *where, "--optimizer", "SGD"]
    assert said(train, capsys).endswith("val: missing; expected a folder of images for every class")
    test = ["test", *files(root), "--out", str(tmp_path / "out")]
    assert "weights.pt: missing; `python -m advlib.training.imagenet train`" in said(test, capsys)
    (tmp_path / "out").mkdir()
    for content in (b"", b"hello"):
        (tmp_path / "out/weights.pt").write_bytes(content)
        assert "weights.pt: damaged, or of another network" in said(test, capsys)
    torch.save({"fc.weight": torch.ones(3)}, tmp_path / "out/weights.pt")
    assert "weights.pt: damaged, or of another network" in said(test, capsys)
    (tmp_path / "empty/val/class").mkdir(parents=True)
    assert "val: " in said(["test", "--data", str(tmp_path / "empty"), *where], capsys)
    assert "lr=nan: expected" in said(["train", *files(root), *where[2:], "--optimizer", "SGD", "--lr", "nan"], capsys)


def test_a_checkpoint_of_another_training_is_named(root, tmp_path):
    def fitted(plan=PLAN, size=32, net=None):
        return imagenet.fit(net or Colour(), root / "imagenet", plan, tmp_path, size, workers=0)

    fitted()
    with pytest.raises(ValueError, match=r"another training, by its recipe \(lr: 0.05, now 0.1\);"):
        fitted(replace(PLAN, lr=0.1))
    with pytest.raises(ValueError, match="another training, by its size;"):
        fitted(size=40)
    other = Colour()
    other.net[0].weight.data.mul_(2)
    with pytest.raises(ValueError, match="another training, by its initial weights;"):
        fitted(net=other)


def test_training_that_diverges_stops_before_the_checkpoint_is_written(root, tmp_path):
    with pytest.raises(FloatingPointError, match="epoch 1"):
        imagenet.fit(Colour(), root / "imagenet", replace(PLAN, lr=1e30), tmp_path, size=32, workers=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("local", [[], ["--per-process"]], ids=["averaged", "per process"])
def test_the_command_on_two_processes(root, tmp_path, local):
    """The chapter's command, on a ResNet-50 of 32 pixels."""
    where = ["--data", str(root / "imagenet"), "--model", "ResNet-50", "--out", str(tmp_path)]
    small = ["--size", "32", "--workers", "0"]
    train = ["-m", "advlib.training.imagenet", "train", *where, *small, "--optimizer", "CR-SAM"]
    train += ["--epochs", "1", "--batch-size", "32", "--lr", "0.01", *local]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, *train], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("epoch 1: loss") == 1  # one process speaks for both
    tested = [sys.executable, "-m", "advlib.training.imagenet", "test", *where, *small, "--rendered", str(root / "r")]
    said = subprocess.run(tested, capture_output=True, text=True, timeout=600, check=True).stdout
    table = pd.read_csv(tmp_path / "table_5_4.csv")
    assert table.dataset.tolist() == ["ImageNet-1k", "ImageNet-R"] and "ImageNet-R" in said
