"""What chapters measure of a network, against closed forms and against the functions behind them."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_model
from torch import nn

from advlib import curvature, lipschitz
from advlib.bench import measures
from advlib.zoo import datasets


@pytest.fixture(scope="module")
def data():
    return datasets.load("shapes", "test", n=12, size=16)


# --- a landscape -----------------------------------------------------------------------------------------------------


def linear(classes=3, side=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, classes))


def test_the_landscape_of_a_linear_network_has_a_closed_form():
    net, x, y = linear(), torch.full((1, 3, 4, 4), 0.5), torch.tensor([1])
    along, across = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(1)).sign()
    axis = torch.tensor([-8.0, -1.0, 0.0, 4.0])
    found = torch.from_numpy(measures.landscape(net, x, y, along, across, axis))
    matrix = net[1].weight
    start, slopes = net(x), [(matrix @ d.flatten()) / 255 for d in (along, across)]
    logits = start + axis.view(1, -1, 1) * slopes[0] + axis.view(-1, 1, 1) * slopes[1]  # rows: across
    assert found.shape == (4, 4)
    assert torch.allclose(found, torch.logsumexp(logits, 2) - logits[..., 1], atol=1e-5)


def test_the_middle_is_the_loss_of_the_image_and_the_edges_are_images():
    net, y = tiny_model(), torch.tensor([2])
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ones = torch.ones_like(x)
    found = measures.landscape(net, x, y, ones, -ones, torch.tensor([-255.0, 0.0, 255.0]))
    white, black = (F.cross_entropy(net(level * ones), y).item() for level in (1.0, 0.0))
    assert found[1, 1] == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-6)
    assert found[1, 2] == pytest.approx(white, rel=1e-5) and found[1, 0] == pytest.approx(black, rel=1e-5)
    assert found[2, 1] == pytest.approx(black, rel=1e-5) and found[2, 2] == pytest.approx(found[1, 1], rel=1e-4)


# --- numbers of a network --------------------------------------------------------------------------------------------


def test_the_local_constant_is_that_of_the_images_whatever_the_batch(data):
    net = tiny_model()
    whole = measures.local_lipschitz(net, data, 8 / 255, seed=3)
    assert torch.equal(whole, lipschitz.local_lipschitz(net, data.x, 8 / 255, seed=3, index=data.index))
    parts = torch.cat([partial(measures.local_lipschitz, seed=3)(net, b, 8 / 255) for b in data.batches(5)])
    assert torch.allclose(parts, whole, rtol=1e-4) and not torch.equal(
        whole, measures.local_lipschitz(net, data, 8 / 255)
    )


def test_geometry_is_of_the_loss_in_eval_mode(data):
    net = tiny_model(scale=1.0).train()
    found = measures.geometry(net, data, probes=4)
    loss, w = curvature.mean_loss(net, data), curvature.weights(net)
    assert not net.training and list(found) == [
        "loss", "gradient_norm", "trace", "trace_error", "normalized_trace", "top_eigenvalue"
    ]  # fmt: skip
    with torch.no_grad():
        assert found["loss"] == pytest.approx(F.cross_entropy(net(data.x), data.y).item(), rel=1e-5)
    assert found["gradient_norm"] == pytest.approx(curvature.norm(curvature.gradient(loss, w)).item(), rel=1e-5)
    assert found["normalized_trace"] == found["trace"] / found["gradient_norm"]
    assert found["top_eigenvalue"] > 0 and found["trace_error"] < abs(found["trace"])


def test_one_step_finds_a_share_of_what_twenty_find(data):
    found = measures.approximation(tiny_model(scale=1.0), data, batch_size=6, rho=0.05)
    assert set(found) == {"approximation_ratio", "mean_of_ratios"} and all(0 < ratio <= 1 for ratio in found.values())
