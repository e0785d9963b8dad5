"""LinBP and SGM: the logits stay, the gradient is that of a network that one can write down."""

import pytest
import torch
from conftest import tiny_model
from torch import nn

from advlib import ensemble, gradient
from advlib.core.draws import Draw
from advlib.layers import linear_backward, named, skip_gradient
from advlib.zoo import acceleration, models


class Block(nn.Module):
    """z + branch(z), the branch a matrix, a ReLU called as a method and a layer that is its last."""

    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, z):
        return z + self.last(self.first(z).relu())


class Chain(nn.Module):
    """Two blocks, an in-place ReLU module, a linear head."""

    def __init__(self, width=48):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.act(self.blocks(x.flatten(1))))


@pytest.fixture
def chain():
    return Chain().double().eval()


@pytest.fixture
def images():
    return torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradients(model, x):
    y = torch.zeros(len(x), dtype=torch.int64)
    return gradient(model)(x, y, Draw(0, torch.arange(len(x))))


def by_hand(chain, x, straight=(), gamma=1.0):
    """The input gradient from the chain rule: ReLU masks of the blocks (0, 1) and of the head (2), those in `straight`
    all ones; branches times gamma."""
    z, masks = x.flatten(1), []
    for block in chain.blocks:
        masks.append(block.first(z) > 0)
        z = block(z)
    masks.append(z > 0)
    masks = [torch.ones_like(m) if i in straight else m for i, m in enumerate(masks)]
    logits = chain(x)
    y = torch.zeros(len(x), dtype=torch.int64)
    back = (logits.softmax(1) - nn.functional.one_hot(y, 10)) @ chain.head.weight * masks[2]
    for block, mask in zip(reversed(chain.blocks), reversed(masks[:2]), strict=True):
        back = back + gamma * ((back @ block.last.weight) * mask) @ block.first.weight
    return back.view_as(x)


@pytest.mark.parametrize(
    ("layer", "straight"), [("blocks.0", (0, 1, 2)), ("blocks.1", (1, 2)), ("act", (2,)), ("head", ())]
)
def test_linear_backward_from_a_layer_on(chain, images, layer, straight):
    linear = linear_backward(chain, layer)
    assert torch.equal(linear(images), chain(images))
    assert torch.allclose(gradients(linear, images), by_hand(chain, images, straight))


def test_a_layer_behind_the_last_relu_is_plain_backward(images):
    model = tiny_model()
    x = images.float().repeat(1, 1, 2, 2)
    assert torch.equal(gradients(linear_backward(model, "net.5"), x), gradients(model, x))
    assert not torch.equal(gradients(linear_backward(model, "net.0"), x), gradients(model, x))


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_skip_gradient_scales_the_branches(chain, images, gamma):
    skip = skip_gradient(chain, "blocks.*.last", gamma)
    assert torch.equal(skip(images), chain(images))
    assert torch.allclose(gradients(skip, images), by_hand(chain, images, gamma=gamma))


def test_skip_gradient_with_gamma_one_is_plain(chain, images):
    assert torch.equal(gradients(skip_gradient(chain, "last", 1.0), images), gradients(chain, images))


def test_both_together(chain, images):
    both = skip_gradient(linear_backward(chain, "blocks.1"), "blocks.*.last", 0.5)
    assert torch.allclose(gradients(both, images), by_hand(chain, images, (1, 2), 0.5))


@pytest.mark.parametrize("wrap", [lambda m: linear_backward(m, "blocks.0"), lambda m: skip_gradient(m, "last", 0.5)])
def test_the_model_is_as_it_was_also_after_an_error(chain, images, wrap):
    plain = gradients(chain, images)
    wrapped = wrap(chain)
    with pytest.raises(RuntimeError):
        wrapped(images[:, :, :2])
    wrapped(images)
    hooks = [m for m in chain.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks and torch.equal(gradients(chain, images), plain)


@pytest.mark.parametrize("name", ["shapes/resnet", "shapes/wrn"])
def test_on_the_zoo_and_on_its_accelerated_copy(name):
    model = models.load(name)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, fast = gradients(linear_backward(model, "layer3.0.conv1"), x), acceleration.accelerate(model)
    assert not torch.allclose(plain, gradients(model, x))
    assert torch.allclose(gradients(linear_backward(fast, "layer3.0.conv1"), x), plain, rtol=1e-2, atol=1e-6)
    block = gradients(linear_backward(model, "layer3"), x)
    assert torch.allclose(gradients(linear_backward(fast, "layer3"), x), block, rtol=1e-2, atol=1e-6)


def test_errors_name_the_layer(chain):
    with pytest.raises(ValueError, match="layer 'layer9'"):
        linear_backward(chain, "layer9")
    with pytest.raises(ValueError, match="expected one layer"):
        linear_backward(chain, "last")
    with pytest.raises(ValueError, match="gamma"):
        skip_gradient(chain, "last", 1.5)
    with pytest.raises(TypeError, match="ensemble"):
        named(ensemble([tiny_model(), tiny_model(1)]), "net.0")


def test_skip_gradient_of_layers_that_are_never_called_is_refused(x, y):
    model = tiny_model()
    model.net.add_module("spare", torch.nn.Linear(10, 10))
    model.net.forward = lambda z: torch.nn.Sequential(*list(model.net)[:-1])(z)
    with pytest.raises(ValueError, match="net.spare.*never calls"):
        skip_gradient(model, "spare")(x)
    assert torch.equal(skip_gradient(model, "*")(x), model(x))
