"""What is known of every data set, and what the name of a network says.

This is the one list of both; nothing in it needs torch, so that the command line answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass

_STATISTICS = tuple[float, float, float]


@dataclass(frozen=True)
class DataSet:
    """A data set.

    title: its name in a sentence; classes; splits: those that can be loaded; mean, std: of RGB input in [0, 1] for the
    networks that are trained on it here, None where every network brings its own; places: where it may lie below a data
    root, as patterns; archive: the folder of the official CIFAR archive; hub, hub_label: folder and column of the
    labels in the layout of the data set hub.
    """

    title: str
    classes: int
    splits: tuple[str, ...]
    mean: _STATISTICS | None = None
    std: _STATISTICS | None = None
    places: tuple[str, ...] = ()
    archive: str = ""
    hub: str = ""
    hub_label: str = ""


_THREE = ("train", "val", "test")
DATASETS = {
    # Mean and standard deviation are about its own.
    "shapes": DataSet("shapes", 10, _THREE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    # Those of the training sets.
    "cifar10": DataSet(
        "CIFAR-10",
        10,
        _THREE,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        ("cifar10/plain_text/*.parquet", "cifar10/cifar-10-batches-py", "cifar-10-batches-py"),
        "cifar-10-batches-py",
        "plain_text",
        "label",
    ),
    "cifar100": DataSet(
        "CIFAR-100",
        100,
        _THREE,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        ("cifar100/cifar100/*.parquet", "cifar100/cifar-100-python", "cifar-100-python"),
        "cifar-100-python",
        "cifar100",
        "fine_label",
    ),
    "imagenet": DataSet("ImageNet", 1000, ("val",), places=("imagenet/val",)),
    "imagenet_sample": DataSet(
        "a sample of ImageNet's training images", 1000, ("train", "val"), places=("imagenet_sample/images.csv",)
    ),
    "imagenet_compatible": DataSet(
        "ImageNet-compatible images", 1000, ("test",), places=("imagenet_compatible/images.csv",)
    ),
}
"""Every data set by name."""
CHAPTERS = ("shapes", "cifar10", "cifar100", "imagenet")
"""Those that a chapter can be run on."""
TRAINED = tuple(name for name, dataset in DATASETS.items() if dataset.mean is not None)
"""Those on which networks are trained here."""
FILES = {name: dataset.places for name, dataset in DATASETS.items() if dataset.places}
"""Those that are files, and where they may lie below a data root."""

HARDENED = ("pgd", "ens1", "ens3", "ens4", "noise")
"""How a small net may have been trained other than on clean images, as a suffix of its name: PGD adversarial training,
ensemble adversarial training with a pool of 1, 3 or 4, Gaussian noise."""
TUNED = ("tuned", "lrs1", "lrs2", "lrsf", "adv")
"""How a small net may have been trained further, as a suffix of its name: as before, with the penalties of chapter 4,
or on weak adversarial examples."""
FLAT = ("sam", "crsam")
"""By which optimizer of chapter 5 a small net may have been trained, as a suffix of its name."""
FAMILY = ("asam", "looksam", "esam", "ssam", "saf", "aesam", "gsam")
"""Or by which of its relatives, which no chapter trains."""
_CHAPTER = {"": "A1", "full": "A1"} | {
    variant: chapter
    for chapter, variants in (("A2", HARDENED), ("04", TUNED), ("06", FLAT), ("", FAMILY))
    for variant in variants
}


@dataclass(frozen=True)
class Net:
    """What the name of one of our networks says, "<dataset>/<family>" or "<dataset>/<family>-<variant>".

    variant: "" for a small net, "full" for one of the thesis' size, or how a small one was trained otherwise (HARDENED,
    FLAT, FAMILY) or further (TUNED).
    """

    dataset: str
    family: str
    variant: str = ""

    @classmethod
    def parse(cls, name: str) -> Net:
        """The parts of a name. Raises ValueError for a data set without networks of ours, or an unknown variant."""
        dataset, _, net = name.partition("/")
        family, _, variant = net.partition("-")
        if dataset not in TRAINED:
            raise ValueError(f"name={name!r}: expected <data set>/<net>, with a data set of {', '.join(TRAINED)}")
        if variant not in _CHAPTER:
            known = ", ".join(filter(None, _CHAPTER))
            raise ValueError(f"name={name!r}: expected <data set>/<family>, with -<variant> for one of {known}")
        return cls(dataset, family, variant)

    @property
    def size(self) -> str:
        """ "small" or "full", as `models.create` takes it."""
        return "full" if self.variant == "full" else "small"

    @property
    def chapter(self) -> str:
        """The number of the chapter that trains it, "" if none does."""
        return _CHAPTER[self.variant]
