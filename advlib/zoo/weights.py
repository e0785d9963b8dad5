"""Weights on disk: safetensors files that a manifest lists with their sha256, and checkpoints of others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import torch
from torch import nn

from ..core import checks
from ..core.surrogate import Normalized
from ..files.locks import waiting
from ..files.paths import WEIGHTS, replacing


class WeightsError(RuntimeError):
    """Weights that are missing, damaged, or not those that the manifest lists."""


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


def existing(name: str, folder: str | Path, files: Sequence[str]) -> list[Path]:
    """Those of `files` that a folder which a user has named holds; none for the folder "". Raises TypeError for what is
    no path, ValueError for a folder that is not there; `name` says in the message which argument it was."""
    checks.instance(name, folder, (str, Path), "a folder")
    if not str(folder):
        return []
    if not Path(folder).is_dir():
        raise ValueError(f"{name}={str(folder)!r}: no such folder")
    return [path for path in (Path(folder) / file for file in files) if path.is_file()]


def inside(argument: str, folder: Path, name: object, suffix: str = "") -> Path:
    """<folder>/<name><suffix>. Raises TypeError or ValueError, by the name of the `argument`, for a name that is no
    text, is empty, or would lead out of the folder."""
    checks.text(argument, name)
    path = PurePath(name)
    if not path.name or path.anchor or ".." in path.parts or "\0" in name:
        raise ValueError(f"{argument}={name!r}: expected the name of a file inside {folder}")
    return folder / path.with_name(path.name + suffix)
