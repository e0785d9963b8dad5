"""The zoo: models that map images in [0, 1] to logits, by name, with checked weights.

load("shapes/resnet")           a small net of ours (data/weights)
load("cifar10/resnet20")        an independent witness ($ADVLIB_DATA/weights)
load("timm/inception_v4")       any ImageNet model of timm or torchvision, normalised as its own config says
create("wrn", "full")           an untrained net of the zoo
ensemble([f, h])                the mean of the logits
accelerate(f)                   a faster copy for the attack loop
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

import torch
import torch.nn.functional as F
from torch import nn

from . import checks, folding
from .checks import Model
from .locks import waiting
from .nets import FAMILIES, resnet
from .paths import WEIGHTS, data_roots, replacing

# Mean and standard deviation of RGB input in [0, 1]. shapes: about its own; CIFAR: of the training sets.
STATISTICS = {
    "shapes": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
CLASSES = {"shapes": 10, "cifar10": 10, "cifar100": 100}


HARDENED = ("pgd", "ens1", "ens3", "ens4", "noise")
"""How a small net may have been trained other than on clean images, as a suffix of its name: PGD adversarial training,
ensemble adversarial training with a pool of 1, 3 or 4, Gaussian noise."""

TUNED = ("tuned", "lrs1", "lrs2", "lrsf", "adv")
"""How a small net may have been trained further, as a suffix of its name: as before, with the penalties of chapter 4,
or on weak adversarial examples."""

FLAT = ("sam", "crsam")
"""By which optimizer of chapter 5 a small net may have been trained, as a suffix of its name."""


class WeightsError(RuntimeError):
    """Weights that are missing, damaged, or not those that the manifest lists."""


class Normalized(nn.Module):
    """Images in [0, 1], shape (N, C, H, W), to the logits of `net` on (x - mean) / std.

    mean, std: a number for each channel, std above 0. size: the side that `net` wants; images of another size are
    resized (bilinear) on the way in. None: any size. Raises TypeError or ValueError for other values.
    """

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float], size: int | None = None) -> None:
        super().__init__()
        checks.instance("net", net, nn.Module, "an nn.Module")
        for name, values, above in (("mean", mean, None), ("std", std, 0)):
            checks.instance(name, values, Sequence, "a sequence of numbers, one for each channel")
            for value in values:
                checks.number(name, value, above=above)
        if len(mean) != len(std):
            raise ValueError(f"std: {len(std)} numbers for {len(mean)} in mean")
        if size is not None:
            checks.whole("size", size, 1)
        self.net, self.size = net, size
        for name, values in (("mean", mean), ("std", std)):
            statistic = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, statistic, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.size is not None:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=False, align_corners=False)
        return self.net(_normalised(x, self.mean, self.std))


@torch.fx.wrap  # one call to a trace, which could not ask for a shape
def _normalised(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(x - mean) / std. Raises ValueError for another number of channels, of which one would pass for all."""
    if x.dim() != 4 or x.shape[1] != mean.shape[1]:
        raise ValueError(f"x: expected images of shape (N, {mean.shape[1]}, H, W), got {tuple(x.shape)}")
    return (x - mean) / std


class Ensemble(nn.Module):
    """The mean of the members' logits, before the loss (thesis, sect. 2.3.2.2). Every member gets its own copy of the
    images: one that normalises in place does not change what the next one sees."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = [checks.logits(m(x.clone()), len(x), f"members[{i}]") for i, m in enumerate(self.members)]
        classes = [member.shape[1] for member in logits]
        if len(set(classes)) > 1:
            raise ValueError(f"members: expected the same classes of all, got {', '.join(map(str, classes))} logits")
        return torch.stack(logits).mean(0)


def ensemble(members: Sequence[nn.Module]) -> Ensemble:
    """A surrogate that averages the logits of `members`, a list of nn.Modules over the same classes. Raises TypeError,
    ValueError if the list is empty."""
    checks.instance("members", members, (list, tuple, nn.ModuleList), "a list of nn.Modules")
    if len(members) == 0:
        raise ValueError("members: an ensemble needs at least one model")
    for i, member in enumerate(members):
        checks.module(member, f"members[{i}]")
    return Ensemble(members)


def members(model: Model) -> int:
    """How many networks one pass through `model` runs: the unit in which cost is counted."""
    return len(model.members) if isinstance(model, Ensemble) else 1


# --- by name ---------------------------------------------------------------------------------------------------------


def create(family: str, size: str = "small", dataset: str = "cifar10", seed: int = 0) -> Normalized:
    """An untrained member of the zoo, initialised from `seed`, normalised for `dataset`.

    family: a key of `nets.FAMILIES`; size: "small" (0.19 to 0.31 M parameters) or "full" (the thesis' network).
    Raises TypeError or ValueError for an unknown family, size or data set, or a seed that is no whole number.
    """
    checks.choice("family", family, FAMILIES)
    checks.choice("size", size, ("small", "full"))
    checks.choice("dataset", dataset, CLASSES)
    checks.whole("seed", seed, -(2**63), 2**63 - 1)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        net = FAMILIES[family][size](CLASSES[dataset])
    return Normalized(net, *STATISTICS[dataset])


def load(name: str) -> nn.Module:
    """A trained model by name, in eval mode, on the CPU. Names: `available()`, or "torchvision/X", "timm/X", each with
    ".<weights>" behind it where not the newest are meant.

    Raises TypeError for what is no text, ValueError for a name that nobody knows, WeightsError where its weights are
    missing or damaged.
    """
    checks.instance("name", name, str, "the name of a model")
    source, _, rest = name.partition("/")
    if source == "timm":
        model = _timm(rest)
    elif source == "torchvision":
        model = _torchvision(rest)
    elif name in WITNESSES:
        model = _witness(name)
    else:
        model = _ours(name)
    return model.eval()


def zoo(dataset: str) -> dict[str, nn.Module]:
    """The models that a chapter compares on a data set, by short name: ours, then the witnesses found, marked with a
    star.

    dataset: "shapes", "cifar10", "cifar100" or "imagenet", for which there are witnesses alone. Raises ValueError for
    another, WeightsError if one of our nets has not been trained, or if there are not two networks to compare.
    """
    checks.choice("dataset", dataset, (*CLASSES, "imagenet"))
    ours = {family: load(f"{dataset}/{family}") for family in FAMILIES} if dataset in CLASSES else {}
    known = [name for name in WITNESSES if name.startswith(f"{dataset}/")]
    found = [name for name in known if _witness_root(name)]
    if len(ours) + len(found) < 2:
        places = " or ".join(str(root / "weights") for root in data_roots())
        raise WeightsError(
            f"{dataset}: {len(found)} network(s) found, and a comparison takes two. Looked in {places} for "
            f"{', '.join(f'{name}.safetensors' for name in known)} and manifest.json; set ADVLIB_DATA to the folder "
            "that holds weights/."
        )
    return {**ours, **{name.split("/")[1] + "*": load(name) for name in found}}


def digest(model: nn.Module) -> str:
    """16 hex digits that change with what a model is: its layers, what a defence says of itself, weights and buffers.
    Part of what makes a result reproducible. Raises TypeError for what is no nn.Module, ValueError for one on the
    device meta, which has no weights."""
    checks.instance("model", model, nn.Module, "an nn.Module")
    found = hashlib.sha256(repr(model).encode())
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_meta:
            raise ValueError(f"model: {name} is on the device meta, which holds no values")
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def available() -> list[str]:
    """Names that `load` can give now without a download: ours, then the witnesses found."""
    ours = [name for name in manifest(WEIGHTS) if name.partition("/")[2].partition("-")[0] in FAMILIES]
    return [*ours, *(n for n in WITNESSES if _witness_root(n) is not None)]


def _ours(name: str) -> nn.Module:
    """'<dataset>/<family>' is the small net, '<dataset>/<family>-full' the thesis' size, '-pgd' and so on a small net
    that was trained otherwise (HARDENED, FLAT), '-lrs1' and so on one that was trained further (TUNED)."""
    dataset, _, net = name.partition("/")
    family, _, size = net.partition("-")
    if dataset not in CLASSES or family not in FAMILIES or size not in ("", "full", *HARDENED, *FLAT, *TUNED):
        known = ", ".join(available()) or "nothing yet"
        raise ValueError(f"name={name!r}: no such model; to be had are {known}, torchvision/<name> and timm/<name>")
    if name not in manifest(WEIGHTS):
        notebooks = {"04": TUNED, "06": FLAT, "A2": HARDENED}
        raise untrained(name, next((number for number, sizes in notebooks.items() if size in sizes), "A1"))
    model = create(family, "full" if size == "full" else "small", dataset)
    restore(model.net, name, WEIGHTS)
    return model


def untrained(name: str, notebook: str) -> WeightsError:
    """The error for a net that `notebook` would have trained."""
    command = f"python -m advlib run {notebook} --dataset {name.partition('/')[0]}"
    return WeightsError(f"{name}: no weights in {WEIGHTS}; notebook {notebook} trains them: {command}")


def _torchvision(name: str) -> nn.Module:
    """'<model>', with torchvision's newest weights, or '<model>.<weights>' such as resnet50.IMAGENET1K_V1."""
    import torchvision

    name, _, wanted = name.partition(".")
    try:
        weights = torchvision.models.get_model_weights(name)[wanted or "DEFAULT"]
    except (ValueError, KeyError) as error:
        tag = f" with weights {wanted!r}" if wanted else ""
        raise ValueError(f"name='torchvision/{name}': torchvision has no such model{tag}") from error
    transform = weights.transforms()
    # Inception and GoogLeNet rescale their input themselves when built with pretrained weights: not twice.
    options = {"transform_input": False} if name in ("inception_v3", "googlenet") else {}
    with _download(f"torchvision/{name}"):
        net = torchvision.models.get_model(name, weights=weights, **options)
    return Normalized(net, transform.mean, transform.std, transform.crop_size[0])


def _timm(name: str, checkpoint: Path | None = None) -> nn.Module:
    """checkpoint: a state dict for timm's architecture, in place of its own pretrained weights."""
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise ValueError(f"name='timm/{name}': timm has no such model")
    with _download(f"timm/{name}"):
        net = timm.create_model(name, pretrained=checkpoint is None)
    if checkpoint is not None:
        fill(net, read_checkpoint(checkpoint), checkpoint)
    config = timm.data.resolve_data_config({}, model=net)
    return Normalized(net, config["mean"], config["std"], config["input_size"][-1])


# The seven targets of thesis chapter 2. timm's ResNet-v2-101 is another training run than the TF-Slim one that the
# thesis names; Inc-v3ens3, Inc-v3ens4 exist only as conversions that a user has to bring. IncRes-v2ens1 is timm's
# `tf_ens_adv`.
_CHAPTER_2 = {
    "Inc-v3": "inception_v3.tf_in1k",
    "Inc-v4": "inception_v4.tf_in1k",
    "IncRes-v2": "inception_resnet_v2.tf_in1k",
    "Res-101": "resnetv2_101.a1h_in1k",
    "IncRes-v2ens1": "inception_resnet_v2.tf_ens_adv_in1k",
}
_CONVERTED = {"Inc-v3ens3": "inception_v3.tf_in1k", "Inc-v3ens4": "inception_v3.tf_in1k"}


def thesis_chapter_2(checkpoints: str | Path = "") -> dict[str, nn.Module]:
    """The ImageNet networks of thesis chapter 2 (sect. 2.3.1) by the names in its tables, in eval mode.

    checkpoints: a folder with Inc-v3ens3.pth and Inc-v3ens4.pth, state dicts for timm's inception_v3; a file that is
    not there leaves its network out, and "" leaves out both. Raises ValueError for a folder that is not there,
    WeightsError where timm's weights cannot be had, or a file does not fit.
    """
    return {name: _timm(net).eval() for name, net in _CHAPTER_2.items()} | converted(checkpoints)


def converted(checkpoints: str | Path) -> dict[str, nn.Module]:
    """Inc-v3ens3 and Inc-v3ens4, as far as their files are in the folder; errors as in `thesis_chapter_2`."""
    there = existing("checkpoints", checkpoints, [f"{name}.pth" for name in _CONVERTED])
    return {file.stem: _timm(_CONVERTED[file.stem], file).eval() for file in there}


def existing(name: str, folder: str | Path, files: Sequence[str]) -> list[Path]:
    """Those of `files` that a folder which a user has named holds; none for the folder "". Raises TypeError for what is
    no path, ValueError for a folder that is not there; `name` says in the message which argument it was."""
    checks.instance(name, folder, (str, Path), "a folder")
    if not str(folder):
        return []
    if not Path(folder).is_dir():
        raise ValueError(f"{name}={str(folder)!r}: no such folder")
    return [path for path in (Path(folder) / file for file in files) if path.is_file()]


# The eleven of thesis chapter 3 (sect. 3.3.1), with the weights of their time. The thesis names families; where a
# family has several sizes this is the one that the benchmarks it cites use.
CHAPTER_3 = {
    "ResNet50": "torchvision/resnet50.IMAGENET1K_V1",
    "VGG19": "torchvision/vgg19.IMAGENET1K_V1",
    "ResNet152": "torchvision/resnet152.IMAGENET1K_V1",
    "Inc-v3": "torchvision/inception_v3.IMAGENET1K_V1",
    "DenseNet": "torchvision/densenet121.IMAGENET1K_V1",
    "MobileNet": "torchvision/mobilenet_v2.IMAGENET1K_V1",
    "SENet": "timm/legacy_senet154.in1k",
    "ResNeXt": "torchvision/resnext101_32x8d.IMAGENET1K_V1",
    "WRN": "torchvision/wide_resnet101_2.IMAGENET1K_V1",
    "PNASNet": "timm/pnasnet5large.tf_in1k",
    "MNASNet": "torchvision/mnasnet1_0.IMAGENET1K_V1",
}


def thesis_chapter_3() -> dict[str, nn.Module]:
    """The eleven ImageNet networks of thesis chapter 3 by the names in its tables, in eval mode; the first is the
    source. Raises WeightsError where weights cannot be had."""
    return {name: load(path) for name, path in CHAPTER_3.items()}


@contextmanager
def _download(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"{name}: its pretrained weights are not on this machine and could not be downloaded ({error}). "
            "Load it once where there is a network; torchvision keeps weights in $TORCH_HOME, "
            "timm in $HF_HOME."
        ) from error


# --- witnesses: networks that nobody here trained ---------------------------------------------------------------------


def _cifar_resnet(depth: int) -> nn.Module:
    return resnet(10, 16, (depth - 2) // 6, (16, 32, 64), pad=True)


def _tv(name: str, relu6: bool = True) -> nn.Module:
    import torchvision

    net = torchvision.models.get_model(name, weights=None)
    if not relu6:
        for parent in list(net.modules()):
            for child, module in parent.named_children():
                if isinstance(module, nn.ReLU6):
                    setattr(parent, child, nn.ReLU(inplace=True))
    return net


WITNESSES: dict[str, Callable[[], nn.Module]] = {
    "cifar10/resnet20": lambda: _cifar_resnet(20),
    "cifar10/resnet44": lambda: _cifar_resnet(44),
    "imagenet/squeezenet1_0": lambda: _tv("squeezenet1_0"),
    "imagenet/squeezenet1_1": lambda: _tv("squeezenet1_1"),
    "imagenet/mobilenet_v2_relu": lambda: _tv("mobilenet_v2", relu6=False),
}


def _witness_root(name: str) -> Path | None:
    return next((r / "weights" for r in data_roots() if (r / "weights" / f"{name}.safetensors").is_file()), None)


def _witness(name: str) -> nn.Module:
    root = _witness_root(name)
    if root is None:
        places = " or ".join(str(r / "weights") for r in data_roots())
        raise WeightsError(
            f"{name}: independent weights not found. Looked in {places} for {name}.safetensors and "
            "manifest.json; set ADVLIB_DATA to the folder that holds weights/."
        )
    net = WITNESSES[name]()
    entry = restore(net, f"{name}.safetensors", root)
    try:
        size = None if name.startswith("cifar") else entry["input"]
        return Normalized(net, entry["mean"], entry["std"], size)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{root / 'manifest.json'}: {name}.safetensors: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


# --- weights ----------------------------------------------------------------------------------------------------------


def manifest(folder: Path = WEIGHTS) -> dict[str, dict]:
    """What a folder's manifest.json says about its weights, by name; empty where there is none. Raises WeightsError if
    it is not a JSON object of objects."""
    file = folder / "manifest.json"
    if not file.is_file():
        return {}
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file}: damaged ({error})") from error
    if not isinstance(listed, dict):
        raise WeightsError(f"{file}: expected an object of entries by name, got {checks.shown(listed)}")
    for name, entry in listed.items():
        if not isinstance(entry, dict):
            raise WeightsError(f"{file}: {name}: expected an object, got {checks.shown(entry)}")
    return listed


def damaged(folder: Path = WEIGHTS) -> dict[str, str]:
    """What is wrong with the weights that a folder's manifest lists, by name: files that are missing, changed, or not
    finite. Empty where all is well; {"manifest.json": ...} where the manifest itself cannot be read. Every file is
    read."""
    try:
        listed = manifest(folder)
    except WeightsError as error:
        return {"manifest.json": str(error)}
    found = {}
    for name, entry in listed.items():
        try:
            read_weights(*_file_and_sum(folder, name, entry))
        except WeightsError as error:
            found[name] = str(error)
    return found


def restore(net: nn.Module, name: str, folder: Path = WEIGHTS) -> dict:
    """Load into `net` the weights that the folder's manifest lists under `name`; returns the entry. Raises
    WeightsError, which names the file, where it is not listed, missing or damaged, or of another network."""
    listed = manifest(folder)
    if name not in listed:
        raise WeightsError(f"{folder / 'manifest.json'}: no entry {name}")
    file, sha256 = _file_and_sum(folder, name, listed[name])
    fill(net, read_weights(file, sha256), file)
    return listed[name]


def _file_and_sum(folder: Path, name: str, entry: Mapping[str, object]) -> tuple[Path, str]:
    """Where an entry's weights lie, and their sha256. An independent witness is listed by its file."""
    file, sha256 = entry.get("file", name), entry.get("sha256")
    try:
        checks.text("sha256", sha256)
        return inside("file", folder, file), sha256
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{folder / 'manifest.json'}: {name}: {error}") from error


def read_weights(file: Path, sha256: str) -> dict[str, torch.Tensor]:
    """A safetensors file as float32 (integers as they are). Raises WeightsError if it is missing, its sha256 is
    another, it is no such file, or holds numbers that are not finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    if not file.is_file():
        raise WeightsError(f"{file}: missing, though the manifest lists it")
    raw = file.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise WeightsError(f"{file}: sha256 {found[:12]}..., the manifest says {sha256[:12]}...: truncated or changed")
    try:
        state = {k: v.float() if v.is_floating_point() else v for k, v in from_bytes(raw).items()}
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{file}: not a safetensors file ({error})") from error
    if broken := _not_finite(state):
        raise WeightsError(f"{file}: {broken} holds numbers that are not finite")
    return state


def read_checkpoint(file: Path) -> dict[str, object]:
    """A file of torch.save that holds a dict, on the CPU, read without running anything that it holds. Raises
    WeightsError if it is none."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle raise many kinds for a damaged file
        raise WeightsError(f"{file}: not a file of weights ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict):
        raise WeightsError(f"{file}: expected a dict of weights, got {checks.shown(state)}")
    return state


def fill(net: nn.Module, state: Mapping[str, object], file: Path) -> None:
    """Load weights that came from `file` into `net`. Raises WeightsError unless every one is there, of its shape, a
    float where a float belongs, and finite."""
    wanted = net.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise WeightsError(f"{file}: {name}: expected a tensor, got {checks.shown(value)}")
        if name in wanted and value.is_floating_point() != wanted[name].is_floating_point():
            raise WeightsError(f"{file}: {name}: {value.dtype}, expected {wanted[name].dtype}")
    if broken := _not_finite(state):
        raise WeightsError(f"{file}: {broken} holds numbers that are not finite")
    try:
        net.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise WeightsError(f"{file}: weights of another network ({error})") from error


def _not_finite(state: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first tensor with NaN or infinity in it."""
    return next((k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()), None)


def save_weights(name: str, model: nn.Module, facts: dict, folder: Path = WEIGHTS) -> None:
    """Write the model (`model.net` of a Normalized) in fp16 as <folder>/<name>.safetensors and list it in the manifest
    with its sha256 and `facts` (accuracy, n, recipe, seed, date). Both files are replaced atomically. Raises TypeError
    for what is no nn.Module, ValueError for a name that leads out of the folder, or weights that are not finite in
    fp16."""
    from safetensors.torch import save as to_bytes

    checks.instance("model", model, nn.Module, "an nn.Module")
    file = inside("name", folder, name, ".safetensors")
    net = model.net if isinstance(model, Normalized) else model
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    if broken := _not_finite(state):
        raise ValueError(f"model: {broken} holds numbers that are not finite in fp16")
    raw = to_bytes({k: v.contiguous() for k, v in state.items()})
    entry = {"file": f"{name}.safetensors", "sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), **facts}
    with waiting(folder / "manifest.json"):  # runs that train beside each other each add their entry
        listed = json.dumps(dict(sorted({**manifest(folder), name: entry}.items())), indent=1) + "\n"
        with replacing(file) as partial:
            partial.write_bytes(raw)
        with replacing(folder / "manifest.json") as partial:
            partial.write_text(listed, encoding="utf-8")


def inside(argument: str, folder: Path, name: object, suffix: str = "") -> Path:
    """<folder>/<name><suffix>. Raises TypeError or ValueError, by the name of the `argument`, for a name that is no
    text, is empty, or would lead out of the folder."""
    checks.text(argument, name)
    path = PurePath(name)
    if not path.name or path.anchor or ".." in path.parts or "\0" in name:
        raise ValueError(f"{argument}={name!r}: expected the name of a file inside {folder}")
    return folder / path.with_name(path.name + suffix)


# --- for the attack loop ----------------------------------------------------------------------------------------------


@contextmanager
def frozen(models: Sequence[Model]) -> Iterator[None]:
    """Eval mode, no weight gradients, weights in channels_last; everything is handed back as it was, also after an
    error. Inside torch.inference_mode that mode is left meanwhile, so that images can have gradients.

    Callables that are no nn.Module are left alone.
    """
    modules = [m for m in models if isinstance(m, nn.Module)]
    modes = [(m, m.training) for model in modules for m in model.modules()]
    # Weights that were made in inference mode cannot change outside it, and get no gradients anyway.
    own = [p for model in modules for p in model.parameters() if not p.is_inference()]
    weights = [(p, p.requires_grad, p.data) for p in own]
    with _outside_inference_mode():
        try:
            for module, _ in modes:
                module.training = False
            for p, _, data in weights:
                p.requires_grad_(False)
                if data.dim() == 4:
                    p.data = data.contiguous(memory_format=torch.channels_last)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for p, wanted, data in weights:
                p.data = data
                p.requires_grad_(wanted)


@contextmanager
def _outside_inference_mode() -> Iterator[None]:
    """Gradients stay off, as they are in inference mode: leaving it alone would switch them on."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


class _Cast(nn.Module):
    """Runs `net` in another floating-point type and returns float32 logits; gradients come back in float32."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net.to(dtype), dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.to(self.dtype)).float()


def accelerate(
    model: nn.Module, fold_batchnorm: bool = True, dtype: torch.dtype | None = None, compile: bool = False
) -> nn.Module:
    """A faster copy of a surrogate for the attack loop; the model itself is not touched.

    fold_batchnorm: every BatchNorm that follows a convolution, and can go into its weights without changing anything
    else, does (`folding.fold`; exact up to rounding, which is checked on two images). dtype: torch.bfloat16 runs the
    network in it, faster where the processor has it; the gradients are rounded (chapter A3 measures the gain, and what
    it does to the success rate). compile: torch.compile, worth its minute for long runs. Names of layers, blocks and
    hooks are those of the model; an ensemble is accelerated member by member.
    Raises TypeError for what is no nn.Module or no such option; ValueError for a model that cannot be copied, for a
    dtype that is not floating-point, and, if folding is asked for, as `folding.fold` does.
    """
    checks.module(model)
    checks.flag("fold_batchnorm", fold_batchnorm)
    checks.flag("compile", compile)
    if dtype is not None:
        checks.instance("dtype", dtype, torch.dtype, "a floating-point torch.dtype")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype={dtype}: expected a floating-point torch.dtype")
    try:
        with torch.no_grad():  # of the weights of a ScriptModule copying would record a graph
            fast = copy.deepcopy(model).eval()
    except Exception as error:  # what an attribute raises that cannot be copied
        raise ValueError(f"model: {type(model).__name__} cannot be copied ({error})") from error
    for p in fast.parameters():  # a ScriptModule itself has no requires_grad_
        p.requires_grad_(False)
    return _accelerated(fast, fold_batchnorm, dtype, compile)


def _accelerated(fast: nn.Module, fold_batchnorm: bool, dtype: torch.dtype | None, compile: bool) -> nn.Module:
    if isinstance(fast, Ensemble):
        fast.members = nn.ModuleList(_accelerated(m, fold_batchnorm, dtype, compile) for m in fast.members)
        return fast
    if fold_batchnorm:
        sized = isinstance(fast, Normalized) and fast.size is not None
        folding.fold(fast, (fast.size,) if sized else folding.SIDES)
    if dtype is not None and isinstance(fast, Normalized):
        # The images are normalised in float32: in bfloat16 pixels would be rounded to 1/256 before the network sees
        # them.
        fast.net = _Cast(fast.net, dtype)
    elif dtype is not None:
        fast = _Cast(fast, dtype)
    fast = fast.to(memory_format=torch.channels_last)
    return torch.compile(fast) if compile else fast
