"""Networks of other authors, from files that you bring: checked, and read without running anything that they hold.

defence = purifier("nrp", "NRP.pth"); defended = defence(model)
"""

from __future__ import annotations

import codecs
import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..core import checks
from ..core.surrogate import Normalized
from ..zoo.purifiers import CompressionPair, DenoisingUNet, InUnitsOf, NRPNet
from ..zoo.weights import WeightsError, fill, read_checkpoint
from .purification import Purification

AUTHORS = {
    "hgd": "denoise_incepv3_012.ckpt of github.com/lfz/Guided-Denoise",
    "comdefend": "enc20_0.0001.npy and dec20_0.0001.npy of github.com/jiaxiaojunQAQ/Comdefend",
    "nrp": "NRP.pth of github.com/Muzammal-Naseer/NRP",
    "rs": "imagenet/resnet50/noise_0.25/checkpoint.pth.tar of github.com/locuslab/smoothing",
}
"""The files that can be read, and where their authors say how to get them."""


def purifier(kind: str, files: str | Path | Sequence[str | Path], sha256: str | Sequence[str] = ()) -> Purification:
    """The authors' purifier, for ImageNet.

    kind: "hgd", "comdefend" or "nrp"; files: those that AUTHORS names, in that order; sha256: of each, checked if
    given. Raises TypeError or ValueError for another kind or number of files, WeightsError where a file is missing, has
    another sum, is damaged, or does not fit the published architecture.
    """
    checks.choice("kind", kind, _READERS)
    paths = _checked(kind, files, sha256)
    try:
        net = _READERS[kind](*paths)
    except Exception as error:  # a damaged file makes its reader raise many kinds
        raise WeightsError(f"{files}: not the weights of the published {kind} ({error})") from error
    return Purification(net.eval(), kind="faithful")


def noise_trained(file: str | Path, sha256: str = "") -> nn.Module:
    """The ResNet-50 that Cohen et al. (2019) trained on ImageNet under noise, for `RandomizedSmoothing`; errors as
    above."""
    import torchvision

    (path,) = _checked("rs", file, sha256)
    net = torchvision.models.resnet50(weights=None)
    try:
        state = read_checkpoint(path)["state_dict"]
        fill(net, {name.removeprefix("1.module."): value for name, value in state.items()}, path)
    except Exception as error:  # as above
        raise WeightsError(f"{file}: not the weights of the published ResNet-50 ({error})") from error
    seen = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    return Normalized(net, seen.mean, seen.std, 224).eval()


def _checked(kind: str, files: str | Path | Sequence[str | Path], sha256: str | Sequence[str]) -> list[Path]:
    """The files as paths, all of them there and of the sums given."""
    for name, value in (("files", files), ("sha256", sha256)):
        for one in value if isinstance(value, list | tuple) else [value]:
            checks.instance(name, one, (str, Path), "a text or a path, or a list of them")
    paths = [Path(f) for f in ([files] if isinstance(files, str | Path) else files)]
    sums = [sha256] if isinstance(sha256, str) else list(sha256)
    wanted = 2 if kind == "comdefend" else 1
    if len(paths) != wanted or len([s for s in sums if s]) not in (0, wanted):
        raise ValueError(f"files: {kind} is {AUTHORS[kind]}, each with a sha256 or none")
    for path, given in zip(paths, sums or [""] * wanted, strict=True):
        if not path.is_file():
            raise WeightsError(f"{path}: missing; {kind} is {AUTHORS[kind]}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if given and found != given:
            raise WeightsError(f"{path}: sha256 {found[:12]}..., expected {given[:12]}...: truncated or another file")
    return paths


def _hgd(path: Path) -> nn.Module:
    """The denoiser in front of Inception-v3: a part of the checkpoint, and it sees what Inception sees."""
    state = read_checkpoint(path)
    state = state.get("state_dict", state)
    net = DenoisingUNet((64, 128, 256, 256, 256), (2, 3, 3, 3, 3))
    fill(net, {k.split("denoise.", 1)[1]: v for k, v in state.items() if "denoise." in k}, path)
    return InUnitsOf(net, (0.5,) * 3, (0.5,) * 3)


def _comdefend(encoder: Path, decoder: Path) -> nn.Module:
    """Each file is a list of arrays, kernel (height, width, in, out) and bias of one convolution after the other."""
    net = CompressionPair((16, 32, 64, 128, 256, 128, 64, 32))
    for path, chain in ((encoder, net.encoder), (decoder, net.decoder)):
        arrays = [torch.from_numpy(np.array(a)) for a in _arrays(path)]
        arrays = [a.permute(3, 2, 0, 1) if a.ndim == 4 else a for a in arrays]
        fill(chain, dict(zip(chain.state_dict(), arrays, strict=True)), path)
    return net


def _nrp(path: Path) -> nn.Module:
    net = NRPNet(blocks=23, width=64, growth=32)
    fill(net, read_checkpoint(path), path)
    return net


_READERS = {"hgd": _hgd, "comdefend": _comdefend, "nrp": _nrp}


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays, and refuses whatever else a pickle may ask for."""

    _ALLOWED = {
        "_reconstruct": np.empty(0).__reduce__()[0],
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "encode": codecs.encode,
    }

    def find_class(self, module: str, name: str) -> object:
        if module.split(".")[0] not in ("numpy", "_codecs") or name not in self._ALLOWED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return self._ALLOWED[name]


def _arrays(path: Path) -> Sequence[np.ndarray]:
    """The arrays of a .npy file that holds a list of them, which is a pickle."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return _ArraysOnly(file, encoding="latin1").load()
