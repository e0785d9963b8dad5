"""Ghost networks against erosion by hand; each image, step and copy has its own, wherever it is run."""

import pytest
import torch
from conftest import grid_images, tiny_model
from torch import nn

import advlib as al
from advlib import attacks
from advlib.bench.evaluation import counting
from advlib.core.draws import Draw, Stream
from advlib.core.surrogate import drawn
from advlib.ghosts import dropout_erosion, skip_erosion
from advlib.layers import features
from advlib.rules import PLAIN

EPS = 8 / 255
DRAW = Draw(3, torch.tensor([5, 1, 9, 2]), step=4)


class Residual(nn.Module):
    """A stem, a block with a ReLU behind the sum and a projection with a bias, a block without a ReLU, a linear end."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem, self.end = nn.Conv2d(3, 4, 3), nn.Linear(6, 5)
            self.a = Block(4, 6, True)
            self.b = Block(6, 6, False)

    def forward(self, x):
        return self.end(self.b(self.a(self.stem(x))).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, c_in, c_out, relu):
        super().__init__()
        self.conv, self.skip, self.relu = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_in, c_out, 1), relu

    def forward(self, x, share=1.0):
        z = share * self.skip(x) + self.conv(x)
        return z.relu() if self.relu else z


@pytest.fixture
def net():
    return Residual().eval()


def test_dropout_is_erosion_by_hand(model, x):
    keep = DRAW.at(stream=Stream.DROPPED).uniform(8, 8, 8) >= 0.3
    wanted = model.net[3:](torch.where(keep, model.net[:3]((x - model.mean) / model.std) / 0.7, 0))
    ghost = drawn(dropout_erosion(model, "net.2", 0.3), DRAW)
    assert torch.allclose(ghost(x), wanted, atol=1e-6) and 0.25 < 1 - keep.float().mean() < 0.35


def test_skips_are_eroded_by_hand(net, x):
    shares = [1 + 0.22 * (2 * DRAW.at(stream=Stream.SKIPPED + k).uniform(1, 1, 1) - 1) for k in range(2)]
    wanted = net.end(net.b(net.a(net.stem(x), shares[0]), shares[1]).mean((2, 3)))
    found = drawn(skip_erosion(net, "conv"), DRAW)(x)
    assert torch.allclose(found, wanted, atol=1e-6) and not torch.allclose(found, net(x), atol=1e-3)
    assert all((share - 1).abs().max() < 0.22 for share in shares) and len(set(shares[0].flatten().tolist())) == 4


@pytest.mark.parametrize("erode", [dropout_erosion, skip_erosion])
def test_without_a_rate_or_a_draw_it_is_the_network(net, x, erode):
    assert torch.equal(drawn(erode(net, "conv", 0.0), DRAW)(x), net(x))
    assert torch.equal(erode(net, "conv")(x), net(x))
    drawn(erode(net, "conv", 0.5), DRAW)(x)
    assert not any(module._forward_hooks for module in net.modules())


ERODED = {
    "dropout": lambda net: dropout_erosion(net, "conv", 0.1),
    "skips": lambda net: skip_erosion(net, "conv"),
    "both": lambda net: skip_erosion(dropout_erosion(net, "conv", 0.1), "conv"),
    "ensemble": lambda net: al.ensemble([skip_erosion(net, "conv"), net, dropout_erosion(net, "conv", 0.1)]),
}


@pytest.mark.parametrize("kind", ERODED)
def test_an_image_has_its_ghosts_wherever_it_is_run(net, x, kind):
    ghost, y = ERODED[kind](net), torch.tensor([0, 1, 2, 3])
    index = torch.tensor([7, 8, 9, 3])
    options = {"eps": EPS, "steps": 3, "transform": al.ScaleCopies(2)}
    whole = attacks.mi_fgsm(ghost, x, y, index=index, **options)
    assert torch.equal(whole[2:], attacks.mi_fgsm(ghost, x[2:], y[2:], index=index[2:], **options))
    assert torch.equal(whole, attacks.mi_fgsm(ghost, x, y, index=index, chunk=2, **options))
    assert not torch.equal(whole, attacks.mi_fgsm(net, x, y, **options))
    aimed = attacks.mi_fgsm(ghost, x, y, target=(y + 1) % 5, index=index, **options)
    assert torch.equal(
        aimed[1:], attacks.mi_fgsm(ghost, x[1:], y[1:], target=(y[1:] + 1) % 5, index=index[1:], **options)
    )


def test_every_step_copy_and_layer_has_another(net, x):
    ghost, same = skip_erosion(net, "conv"), x[:1].repeat(4, 1, 1, 1)
    draw = Draw(0, torch.zeros(4, dtype=torch.int64))
    there = [draw, draw.at(step=1), draw.at(copy=1), draw.at(seed=1)]
    answers = torch.stack([drawn(ghost, d)(same)[0] for d in there])
    assert len(answers.unique(dim=0)) == 4
    shares = {name: hook.keywords["by"][0].item() for name, hook in ghost.erosion(draw).items()}
    assert shares["a"] != shares["b"] and shares["a"] == pytest.approx(1 / shares["a.conv"])


def test_members_of_an_ensemble_are_other_ghosts(net, x):
    ghost = skip_erosion(net, "conv", 0.9)
    first, second = (drawn(ghost, DRAW.branch(torch.full((4,), i)))(x) for i in range(2))
    together = drawn(al.ensemble([ghost, ghost]), DRAW)(x)
    assert torch.allclose(together, (first + second) / 2, atol=1e-6) and not torch.allclose(first, second)


def test_the_gradient_of_a_step_is_that_of_its_ghost(net, x):
    y, ghost = torch.tensor([0, 1, 2, 3]), dropout_erosion(net, "conv", 0.2)
    leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(drawn(ghost, DRAW)(leaf), y, reduction="sum").backward()
    found = al.gradient(ghost)(x, y, DRAW.at(copy=torch.zeros(4, dtype=torch.int64)))
    assert torch.allclose(found, leaf.grad, atol=1e-6)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_accelerated_it_stays_the_same_ghost(x, dtype):
    ghost = dropout_erosion(tiny_model(), "net.2", 0.3)
    fast = al.accelerate(ghost, dtype=dtype)
    tolerance = 1e-4 if dtype is None else 0.1
    found, wanted = drawn(fast, DRAW)(x), drawn(ghost, DRAW)(x)
    assert (found - wanted).abs().max() < tolerance < (wanted - ghost(x)).abs().max()


def test_features_of_a_ghost(model, x):
    ghost = dropout_erosion(model, "net.0", 0.5)
    plain, found = features(ghost, "net.2")(x), features(ghost, "net.2")(x, DRAW)
    assert torch.equal(plain, features(model, "net.2")(x)) and not torch.equal(plain, found)


def test_rate_zero_attacks_as_the_network(model, x, y):
    ghost = dropout_erosion(model, "*", 0.0)
    options = {"eps": EPS, "steps": 2, "momentum": PLAIN}
    assert torch.equal(attacks.dim(ghost, x, y, **options), attacks.dim(model, x, y, **options))


def test_bad_input(net, x):
    for erode in (dropout_erosion, skip_erosion):
        for layers, rate, error, named in (
            ("nowhere", 0.1, ValueError, "layers"),
            ("conv", 1.0, ValueError, "rate"),
            ("conv", "0.1", TypeError, "rate"),
        ):
            with pytest.raises(error, match=named):
                erode(net, layers, rate)
        with pytest.raises(TypeError, match="model"):
            erode(al.ensemble([net]), "conv")
    for layers in ("stem", "a.*"):
        with pytest.raises(ValueError, match="layers.*branch of each block"):
            skip_erosion(net, layers)
    net.spare = nn.ReLU()
    with pytest.raises(ValueError, match="spare.*never calls"):
        drawn(dropout_erosion(net, "spare"), DRAW)(grid_images(4))


def test_what_is_not_random_is_run_as_it_is(net, x):
    """With its own hooks, and compiled if it is."""
    together = al.ensemble([net, al.ensemble([net, net])])
    assert drawn(together, DRAW) is together and drawn(net, DRAW) is net and drawn(torch.relu, DRAW) is torch.relu
    fast = al.accelerate(tiny_model(), dtype=torch.bfloat16)
    assert drawn(fast, DRAW) is fast
    compiled = torch.compile(together, backend="eager")
    assert drawn(compiled, DRAW) is compiled


@pytest.mark.parametrize("erode", [dropout_erosion, skip_erosion])
def test_passes_of_a_ghost_are_counted_once(erode, x, y):
    """Also of a ghost of a ghost, which runs the network without calling either."""
    once = erode(Residual().eval(), "*.conv", 0.1)
    for ghost in (once, dropout_erosion(once, "*.skip", 0.1)):
        with counting(ghost) as counter:
            attacks.mi_fgsm(ghost, x, y % 5, eps=EPS, steps=3)
        assert counter.rows == 3 * len(x)
