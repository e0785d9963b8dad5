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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .nets import FAMILIES, resnet
from .paths import WEIGHTS, data_roots, replacing

Model = Callable[[torch.Tensor], torch.Tensor]

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
    """Images in [0, 1], shape (N, 3, H, W), to the logits of `net` on (x - mean) / std.

    size: the side that `net` wants; images of another size are resized (bilinear) on the way in. None: any size.
    """

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float], size: int | None = None) -> None:
        super().__init__()
        self.net, self.size = net, size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.size is not None:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=False, align_corners=False)
        return self.net((x - self.mean) / self.std)


class Ensemble(nn.Module):
    """The mean of the members' logits, before the loss (thesis, sect. 2.3.2.2)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


def ensemble(members: Sequence[nn.Module]) -> Ensemble:
    """A surrogate that averages the logits of `members` (nn.Modules over the same classes). ValueError if empty."""
    if len(members) == 0:
        raise ValueError("members: an ensemble needs at least one model")
    return Ensemble(members)


def members(model: Model) -> int:
    """How many networks one pass through `model` runs: the unit in which cost is counted."""
    return len(model.members) if isinstance(model, Ensemble) else 1


# --- by name ---------------------------------------------------------------------------------------------------------


def create(family: str, size: str = "small", dataset: str = "cifar10", seed: int = 0) -> Normalized:
    """An untrained member of the zoo, initialised from `seed`, normalised for `dataset`.

    family: a key of `nets.FAMILIES`; size: "small" (0.19 to 0.31 M parameters) or "full" (the thesis' network).
    ValueError for an unknown family, size or data set.
    """
    for name, value, known in (
        ("family", family, FAMILIES),
        ("size", size, ("small", "full")),
        ("dataset", dataset, CLASSES),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)}")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        net = FAMILIES[family][size](CLASSES[dataset])
    return Normalized(net, *STATISTICS[dataset])


def load(name: str) -> nn.Module:
    """A trained model by name, in eval mode, on the CPU. Names: `available()`, or "torchvision/X", "timm/X", each with
    ".<weights>" behind it where not the newest are meant.

    Raises ValueError for a name that nobody knows, WeightsError where its weights are missing or damaged.
    """
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

    Raises WeightsError if one of our nets has not been trained, or if there are not two networks to compare.
    """
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
    Part of what makes a result reproducible."""
    found = hashlib.sha256(repr(model).encode())
    for name, value in (*model.named_parameters(), *model.named_buffers()):
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
    entry = manifest(WEIGHTS).get(name)
    dataset, _, net = name.partition("/")
    family, _, size = net.partition("-")
    if dataset not in CLASSES or family not in FAMILIES or size not in ("", "full", *HARDENED, *FLAT, *TUNED):
        known = ", ".join(available()) or "nothing yet"
        raise ValueError(f"name={name!r}: no such model; to be had are {known}, torchvision/<name> and timm/<name>")
    if entry is None:
        notebooks = {"04": TUNED, "06": FLAT, "A2": HARDENED}
        raise untrained(name, next((number for number, sizes in notebooks.items() if size in sizes), "A1"))
    model = create(family, "full" if size == "full" else "small", dataset)
    model.net.load_state_dict(read_weights(WEIGHTS / entry["file"], entry["sha256"]))
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
        net.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
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
    not there leaves its network out, and "" leaves out both. Raises WeightsError where timm's weights cannot be had.
    """
    return {name: _timm(net).eval() for name, net in _CHAPTER_2.items()} | converted(checkpoints)


def converted(checkpoints: str | Path) -> dict[str, nn.Module]:
    """Inc-v3ens3 and Inc-v3ens4, as far as their files are in the folder (`thesis_chapter_2`)."""
    files = {name: Path(checkpoints) / f"{name}.pth" for name in _CONVERTED}
    return {name: _timm(_CONVERTED[name], f).eval() for name, f in files.items() if checkpoints and f.is_file()}


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
    entry = manifest(root)[f"{name}.safetensors"]
    net = WITNESSES[name]()
    net.load_state_dict(read_weights(root / f"{name}.safetensors", entry["sha256"]))
    size = None if name.startswith("cifar") else entry["input"]
    return Normalized(net, entry["mean"], entry["std"], size)


# --- weights ----------------------------------------------------------------------------------------------------------


def manifest(folder: Path = WEIGHTS) -> dict[str, dict]:
    """What a folder's manifest.json says about its weights, by name; empty where there is none."""
    file = folder / "manifest.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def read_weights(file: Path, sha256: str) -> dict[str, torch.Tensor]:
    """A safetensors file as float32 (integers as they are). WeightsError if it is missing or its sha256 is another."""
    from safetensors.torch import load as from_bytes

    if not file.is_file():
        raise WeightsError(f"{file}: missing, though the manifest lists it")
    raw = file.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise WeightsError(f"{file}: sha256 {found[:12]}..., the manifest says {sha256[:12]}...: truncated or changed")
    return {k: v.float() if v.is_floating_point() else v for k, v in from_bytes(raw).items()}


def save_weights(name: str, model: nn.Module, facts: dict, folder: Path = WEIGHTS) -> None:
    """Write the model (`model.net` of a Normalized) in fp16 as <folder>/<name>.safetensors and list it in the manifest
    with its sha256 and `facts` (accuracy, n, recipe, seed, date). Both files are replaced atomically."""
    from safetensors.torch import save as to_bytes

    net = model.net if isinstance(model, Normalized) else model
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    raw = to_bytes({k: v.contiguous() for k, v in state.items()})
    file = folder / f"{name}.safetensors"
    with replacing(file) as partial:
        partial.write_bytes(raw)
    entry = {"file": f"{name}.safetensors", "sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), **facts}
    listed = dict(sorted({**manifest(folder), name: entry}.items()))
    with replacing(folder / "manifest.json") as partial:
        partial.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


# --- for the attack loop ----------------------------------------------------------------------------------------------


@contextmanager
def frozen(models: Sequence[Model]) -> Iterator[None]:
    """Eval mode, no weight gradients, weights in channels_last; everything is handed back as it was, also after an
    error.

    Callables that are no nn.Module are left alone.
    """
    modules = [m for m in models if isinstance(m, nn.Module)]
    modes = [(m, m.training) for model in modules for m in model.modules()]
    weights = [(p, p.requires_grad, p.data) for model in modules for p in model.parameters()]
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

    fold_batchnorm: every BatchNorm that follows a convolution goes into that convolution's weights (exact up to
    rounding). dtype: torch.bfloat16 runs the network in it, faster where the processor has it; the gradients
    are rounded (chapter A3 measures the gain, and what it does to the success rate). compile: torch.compile, worth its
    minute for long runs. An ensemble is accelerated member by member. Raises ValueError if folding is asked of a model
    torch.fx cannot trace.
    """
    if isinstance(model, Ensemble):
        return Ensemble([accelerate(m, fold_batchnorm, dtype, compile) for m in model.members])
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    if fold_batchnorm and isinstance(fast, Normalized):
        fast.net = _folded(fast.net)
    elif fold_batchnorm:
        fast = _folded(fast)
    if dtype is not None:
        # The images are normalised in float32: in bfloat16 pixels would be rounded to 1/256 before the network sees
        # them.
        if isinstance(fast, Normalized):
            fast.net = _Cast(fast.net, dtype)
        else:
            fast = _Cast(fast, dtype)
    fast = fast.to(memory_format=torch.channels_last)
    return torch.compile(fast) if compile else fast


def _folded(model: nn.Module) -> nn.Module:
    try:
        traced = torch.fx.symbolic_trace(model)
    except Exception as error:  # torch.fx raises whatever the model's control flow does with a proxy
        raise ValueError(
            f"model: {type(model).__name__} cannot be traced to fold its BatchNorm ({error}); pass fold_batchnorm=False"
        ) from error
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.args and isinstance(node.args[0], torch.fx.Node) else None
        if node.op != "call_module" or before is None or before.op != "call_module" or len(before.users) > 1:
            continue
        conv, bn = modules[before.target], modules[node.target]
        if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d) and bn.track_running_stats:
            _set(traced, before.target, torch.nn.utils.fuse_conv_bn_eval(conv, bn))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.recompile()
    traced.delete_all_unused_submodules()
    return traced


def _set(root: nn.Module, target: str, module: nn.Module) -> None:
    parent, _, name = target.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
