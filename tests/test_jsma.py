"""JSMA against a search pair by pair in Python, on a model whose derivatives are its weights."""

import pytest
import torch
from conftest import grid_images

from advlib import jsma


class Linear(torch.nn.Module):
    def __init__(self, classes=4, values=12):
        super().__init__()
        self.w = torch.randn(classes, values, generator=torch.Generator().manual_seed(6))

    def forward(self, x):
        return x.flatten(1) @ self.w.T.to(x.dtype)


@pytest.fixture
def small():
    """Six images of 2 pixels a side, the classes of a linear model, and others."""
    f, x = Linear(), grid_images(6, 2, 2) * 0.8
    y = f(x).argmax(1)
    return f, x, y, (y + torch.tensor([1, 2, 3, 1, 2, 3])) % 4


def searched(f, image, target, theta, gamma, size):
    """The paper's algorithm, one pair after the other."""
    flat = image.flatten().clone()
    for _ in range(int(gamma * 12) // size):
        if f(flat[None]).argmax() == target:
            break
        best, chosen = 0.0, None
        alpha, beta = theta * f.w[target], theta * (f.w.sum(0) - f.w[target])
        free = [i for i in range(12) if (flat[i] < 1 if theta > 0 else flat[i] > 0)]
        for group in [(p, q) for p in free for q in free if p < q] if size == 2 else [(p,) for p in free]:
            a, b = sum(alpha[i] for i in group), sum(beta[i] for i in group)
            if a > 0 > b and -a * b > best:
                best, chosen = -a * b, group
        if chosen is None:
            break
        for i in chosen:
            flat[i] = (flat[i] + theta).clamp(0, 1)
    return flat.view_as(image) if f(flat[None]).argmax() == target else image


@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3])
@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_it_is_the_search_pair_by_pair(theta, pairs, gamma, small):
    f, x, _, target = small
    found = jsma(f, x, target, theta=theta, gamma=gamma, pairs=pairs, target=target)
    wanted = [searched(f, image, t, theta, gamma, 2 if pairs else 1) for image, t in zip(x, target, strict=True)]
    assert torch.allclose(found, torch.stack(wanted), atol=1e-6) and not torch.equal(found, x)


@pytest.mark.parametrize("pairs", [True, False])
def test_no_more_than_the_share_changes(pairs, small):
    """Values near black become white: with the share that a success has it is one, with a value less it is none."""
    f, _, _, target = small
    x, used = torch.full((1, 3, 2, 2), 1e-6), set()
    for wanted in target[:3, None]:
        adv = jsma(f, x, wanted, target=wanted, gamma=1.0, pairs=pairs)
        if values := round(adv.sum().item()):
            used.add(values)
            assert torch.equal(jsma(f, x, wanted, target=wanted, gamma=(values + 0.1) / 12, pairs=pairs), adv)
            assert torch.equal(jsma(f, x, wanted, target=wanted, gamma=(values - 0.9) / 12, pairs=pairs), x)
    assert used


def test_a_table_of_pairs_in_blocks_is_the_same(monkeypatch, small):
    f, x, y, target = small
    whole = jsma(f, x, y, target=target, gamma=1.0)
    monkeypatch.setattr("advlib.saliency._VALUES", 6 * 12 * 5)  # five rows of twelve at once
    assert torch.equal(jsma(f, x, y, target=target, gamma=1.0), whole)


def test_few_values_of_a_network_change_and_the_others_stay(model, x, y):
    adv = jsma(model, x, y)
    success, changed = model(adv).argmax(1) != y, (adv != x).flatten(1).sum(1)
    assert success.any() and (changed[success] > 0).all() and (changed <= 0.145 * 192).all()
    assert torch.equal(adv[~success], x[~success]) and set(adv[adv != x].tolist()) == {1.0}


def test_untargeted_goes_to_the_second_class(small):
    f, x, y, _ = small
    second = f(x).topk(2).indices[:, 1]
    assert torch.equal(jsma(f, x, y, gamma=1.0), jsma(f, x, y, gamma=1.0, target=second))


def test_image_alone_gives_the_same_as_in_a_batch(model, x, y):
    target = (y + 1) % 10
    whole = jsma(model, x, y, target=target, gamma=0.3)
    alone = torch.cat([jsma(model, x[i : i + 1], y[i : i + 1], target=target[i : i + 1], gamma=0.3) for i in range(4)])
    assert torch.equal(whole, alone)


def test_success_from_the_start_changes_nothing_and_neither_does_no_share(small):
    f, x, y, target = small
    assert torch.equal(jsma(f, x, y, target=y), x) and torch.equal(jsma(f, x, target), x)
    assert torch.equal(jsma(f, x, y, target=target, gamma=0.0), x)


def test_half_precision_comes_back_in_it(small):
    f, x, y, target = small
    adv = jsma(f, x.half(), y, target=target, gamma=1.0)
    assert adv.dtype == torch.float16 and (f(adv).argmax(1) == target).any()


def test_derivative_that_is_no_number_is_an_error(small):
    f, x, y, _ = small
    with pytest.raises(ValueError, match="model: its gradient is NaN"):
        jsma(lambda z: f(z) + (0 * z.sum((1, 2, 3))).abs().sqrt()[:, None], x, y, gamma=1.0)


@pytest.mark.parametrize("options", [{"theta": 0}, {"theta": 1.5}, {"gamma": -0.1}, {"pairs": 2}, {"target": None}])
def test_bad_argument_is_refused_by_name(options, small):
    f, x, y, _ = small
    options = {"target": y.float()} if "target" in options else options
    with pytest.raises((TypeError, ValueError), match=rf"\b{next(iter(options))}\b"):
        jsma(f, x, y, **options)
