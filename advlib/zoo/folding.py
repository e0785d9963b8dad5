"""BatchNorm folded into the convolution before it: the same function of the image with fewer layers.

torch.fx finds out which convolution feeds which norm. The network keeps its own `forward`, and with it its blocks, its
hooks, its random layers and whatever else a trace would freeze.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from ..core.checks import shown

SIDES = (32, 28, 64, 96, 128, 224, 256, 299)
"""Sides in pixels of the images that a fold is tried on, the first that the network takes."""


def fold(net: nn.Module, sides: Sequence[int] = SIDES) -> None:
    """Fold every BatchNorm2d of `net` that normalises by running statistics into the Conv2d before it, in place. timm's
    Conv2dSame and BatchNormAct2d, whose activation stays, count as such.

    A pair is left as it is where either is called more than once, is parametrised, or has hooks, and where something
    besides the norm sees the convolution's output or its weights. The result is tried on two random images, of the
    first of `sides` that `net` takes: the outputs must be the same up to rounding. torch's generators stay as they are.
    Raises ValueError for a network that torch.fx cannot trace, that takes no such images, or whose outputs change.
    """
    pairs = _pairs(net)
    if not pairs:
        return
    x, before = _tried(net, sides)
    for conv, norm in pairs:
        _absorb(net.get_submodule(conv), net.get_submodule(norm))
        net.set_submodule(norm, _rest(net.get_submodule(norm)))
    _compare(net, before, _output(net, x))


def _refusal(net: nn.Module, why: str) -> ValueError:
    return ValueError(f"model: {type(net).__name__} {why}; pass fold_batchnorm=False")


# --- which pairs -----------------------------------------------------------------------------------------------------


def _of_timm(name: str) -> type | None:
    """A layer's class, if timm is loaded: a network that has such a layer has loaded it."""
    return getattr(sys.modules.get("timm.layers"), name, None)


def _is_convolution(layer: nn.Module) -> bool:
    """By the class itself: a subclass may do something else with its weights, as weight standardisation does."""
    return type(layer) in (nn.Conv2d, _of_timm("Conv2dSame"))


def _is_norm(layer: nn.Module) -> bool:
    return type(layer) in (nn.BatchNorm2d, _of_timm("BatchNormAct2d"))


def _is_hooked(layer: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(layer, kind) for kind in kinds)


class _Tracer(fx.Tracer):
    """Records a pass in which every convolution and every norm is one call. Hooks are not run: a trace is no pass."""

    proxy_buffer_attributes = True  # so that who reads a buffer is seen

    def __init__(self) -> None:
        super().__init__()
        self.watched: set[fx.Node] = set()  # what a hook of some layer would see

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        published = type(m).__module__.partition(".")[0] in ("timm", "torchvision")
        single = published and not any(m.children())  # such as a pooling that looks at the image's size
        return single or _is_convolution(m) or _is_norm(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> object:
        out = super().call_module(m, m.forward, args, kwargs)
        if _is_hooked(m):
            self.watched |= {value.node for value in tree_leaves((args, kwargs, out)) if isinstance(value, fx.Proxy)}
        return out


def _pairs(net: nn.Module) -> list[tuple[str, str]]:
    """Names of the convolutions and norms to fold."""
    tracer, graph = _traced(net)
    layers, weights = dict(net.named_modules()), dict(chain(net.named_parameters(), net.named_buffers()))
    called = [layers[node.target] for node in graph.nodes if node.op == "call_module"]
    calls = Counter(id(layer) for outer in called for layer in outer.modules())
    read = {id(weights[node.target]) for node in graph.nodes if node.op == "get_attr" and node.target in weights}

    def alone(layer: nn.Module) -> bool:
        held = chain(layer.parameters(), layer.buffers())
        return calls[id(layer)] == 1 and not any(id(value) in read for value in held)

    found = []
    for node in graph.nodes:
        before = node.args[0] if node.args else None
        if not (_calls_layer(node) and _calls_layer(before)) or len(before.users) > 1 or before in tracer.watched:
            continue
        conv, norm = layers[before.target], layers[node.target]
        statistics = _is_norm(norm) and norm.running_mean is not None
        if _is_convolution(conv) and statistics and alone(conv) and alone(norm) and not _is_hooked(norm):
            found.append((before.target, node.target))
    return found


def _calls_layer(node: object) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_module"


def _traced(net: nn.Module) -> tuple[_Tracer, fx.Graph]:
    """A trace of a stand-in that shares the weights: what `forward` leaves in the network's attributes stays there."""
    tracer, shared = _Tracer(), {id(value): value for value in chain(net.parameters(), net.buffers())}
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            defaults = {
                p.name: p.default
                for p in inspect.signature(net.forward).parameters.values()
                if p.default is not inspect.Parameter.empty
            }
            return tracer, tracer.trace(copy.deepcopy(net, shared), defaults or None)
    except Exception as error:  # torch.fx raises whatever the network's control flow does with a proxy
        raise _refusal(net, f"cannot be traced to fold its BatchNorm ({error})") from error


# --- the fold --------------------------------------------------------------------------------------------------------


def _absorb(conv: nn.Module, norm: nn.Module) -> None:
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    folded = nn.utils.fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
    conv.weight, conv.bias = (value.requires_grad_(False) for value in folded)


def _rest(norm: nn.Module) -> nn.Module:
    """What a norm does besides normalising."""
    return nn.Identity() if type(norm) is nn.BatchNorm2d else nn.Sequential(norm.drop, norm.act)


# --- the trial -------------------------------------------------------------------------------------------------------


def _tried(net: nn.Module, sides: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two random images that the network takes, and its output."""
    weight = next(net.parameters())
    channels = next(layer.in_channels for layer in net.modules() if _is_convolution(layer))
    generator = torch.Generator().manual_seed(0)
    for side in sides:
        x = torch.rand(2, channels, side, side, generator=generator).to(weight)
        try:
            return x, _output(net, x)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a network raises for images of another size
            last = error
    raise _refusal(net, f"takes no square images of {', '.join(map(str, sides))} pixels to try the fold on ({last})")


@torch.no_grad()
def _output(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Without autocast; what the network draws from torch's generators is the same every time."""
    cuda = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices=cuda), torch.autocast(x.device.type, enabled=False):
        torch.manual_seed(0)
        return net(x.clone())


def _compare(net: nn.Module, before: torch.Tensor, after: torch.Tensor) -> None:
    if not isinstance(before, torch.Tensor) or not before.is_floating_point():
        raise _refusal(net, f"returns {shown(before)}, expected floating-point logits")
    apart, largest = (before - after).abs().max().item(), before.abs().max().item()
    if not apart <= _rounding(before) * largest:
        raise _refusal(net, f"gives other logits with its BatchNorm folded, {apart:.3g} of {largest:.3g} apart")


def _rounding(logits: torch.Tensor) -> float:
    """How far rounding may take logits apart, as a share of the largest. In float32 on the CPU it is below 1e-6 for the
    networks of this book and of timm; a GPU may multiply with the 10 bits of TF32."""
    bits = torch.finfo(logits.dtype).bits
    return 0.1 if bits < 32 else 0.03 if bits == 32 and logits.device.type != "cpu" else 1e-3
