"""Score-based attacks: NES against the gradient, NAttack on a linear model; queries counted, no graph, images apart."""

import pytest
import torch
from conftest import grid_images, tiny_model

import advlib as al
from advlib.core.draws import Draw, Stream
from advlib.gradients import cross_entropy, gradient, lost_logit
from advlib.queries import antithetic, nattack, nes


class Linear:
    """Logits W x: no nn.Module, and counted: `shown` images at once."""

    def __init__(self, classes=3, seed=0):
        self.w = torch.randn(classes, 3 * 4 * 4, generator=torch.Generator().manual_seed(seed))
        self.calls = []

    def __call__(self, x):
        assert not torch.is_grad_enabled()
        self.calls.append(len(x))
        return x.flatten(1) @ self.w.T.to(x.dtype)

    @property
    def shown(self):
        return sum(self.calls)


@pytest.fixture
def small():
    """Four images of 4 pixels a side, and a linear model's classes of them."""
    f, x = Linear(), 0.25 + grid_images(4, 4, 4) / 2
    with torch.no_grad():
        y = f(x).argmax(1)
    f.calls.clear()
    return f, x, y


# --- NES --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.001, 0.5])
def test_antithetic_mean_over_a_basis_is_the_gradient_of_a_linear_function(sigma):
    n = 48
    w, x = torch.randn(3, 4, 4, dtype=torch.float64), torch.rand(1, 3, 4, 4, dtype=torch.float64)
    basis = n**0.5 * torch.eye(n, dtype=torch.float64).view(n, 3, 4, 4)  # the mean of u u^T is 1
    parts = antithetic(lambda z: (z * w).sum((1, 2, 3)), x.expand(n, -1, -1, -1), basis, sigma)
    assert torch.allclose(parts.mean(0), w, atol=1e-9)


def test_nes_is_the_mean_over_its_directions_of_the_derivative_along_them(small):
    f, x, y = small
    draw = Draw(3, torch.arange(4), step=2)
    of_logit = -f.w[y].view_as(x)  # the gradient of minus the logit of y
    wanted = torch.zeros_like(x)
    for pair in range(5):
        u = draw.at(copy=pair, stream=Stream.NES).normal(3, 4, 4)
        wanted += u * (u * of_logit).sum((1, 2, 3), keepdim=True) / 5
    found = nes(f, pairs=5, sigma=0.1, loss=lost_logit)(x, y, draw)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_nes_comes_nearer_to_the_gradient_with_more_pairs(small):
    f, x, y = small
    wanted = -f.w[y].view_as(x)
    errors = [
        (nes(f, pairs=pairs, sigma=0.1, loss="logit", chunk=500)(x, y, Draw(0, torch.arange(4))) - wanted)
        .square()
        .mean()
        .item()
        for pairs in (50, 2000)
    ]
    # The variance of one u u^T g is |g|^2 + g_i^2, about 49 here, and falls as 1 / pairs.
    assert errors[1] == pytest.approx(wanted.square().sum((1, 2, 3)).mean().item() / 2000, rel=0.3)
    assert errors[0] == pytest.approx(40 * errors[1], rel=0.5)


def test_nes_goes_the_way_of_the_gradient_of_a_network(model, x, y):
    draw = Draw(0, torch.arange(4))
    true, estimate = gradient(model)(x, y, draw), nes(model, pairs=200, sigma=0.01, chunk=200)(x, y, draw)
    cosine = torch.cosine_similarity(true.flatten(1), estimate.flatten(1))
    assert (cosine > 0.5).all()  # 200 of 192 directions: about sqrt(1 / 2)


@pytest.mark.parametrize("chunk", [2, 7, 50])
def test_nes_is_the_same_in_any_chunk_and_batch(chunk, model, x, y):
    index = torch.tensor([5, 9, 2, 7])
    whole = nes(model, pairs=7, sigma=0.01)(x, y, Draw(0, index))
    assert torch.allclose(nes(model, pairs=7, sigma=0.01, chunk=chunk)(x, y, Draw(0, index)), whole, atol=1e-3)
    alone = nes(model, pairs=7, sigma=0.01)(x[2:3], y[2:3], Draw(0, index[2:3]))
    assert torch.allclose(alone, whole[2:3], atol=1e-3)


def test_nes_in_the_one_loop_fools_a_network_and_its_queries_are_passes_times_steps(model, x, y):
    shown = []

    def f(images):
        shown.append(len(images))
        with torch.no_grad():
            return model(images)

    g = nes(f, pairs=10, sigma=0.01, loss="margin")
    adv = al.attack(x, y, g, eps=16 / 255, steps=10, momentum=al.Elastic(1.0))
    assert g.passes == 20 and sum(shown) - 2 == 4 * 10 * g.passes  # two images are the look at the model
    assert (adv - x).abs().max() <= 16 / 255 + 1e-6 and adv.min() >= 0 and adv.max() <= 1
    target = (y + 3) % 10
    hit = al.attack(x, y, nes(f, pairs=10, sigma=0.01), eps=16 / 255, steps=10, target=target)
    with torch.no_grad():
        assert (al.gradients.margin(model(adv), y) > al.gradients.margin(model(x), y)).all()
        assert (cross_entropy(model(hit), target) < cross_entropy(model(x), target)).all()


def test_nes_counts_the_members_of_an_ensemble(model):
    assert nes(al.ensemble([model, tiny_model(1)]), pairs=3).passes == 12


# --- NAttack ----------------------------------------------------------------------------------------------------------

FEW = {"eps": 0.2, "steps": 30, "population": 40, "chunk": 16}


def test_nattack_moves_the_mean_along_the_sign_of_the_weights():
    """Logits (0, w.x): to leave class 1, x goes against w. The boundary is far: the last image shown is the mean's."""
    w, seen = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1)), []

    def f(x):
        seen.append(x)
        score = (x * w).sum((1, 2, 3)) + 1000
        return torch.stack([torch.zeros_like(score), score], 1)

    x = torch.full((1, 3, 4, 4), 0.5)
    found = nattack(f, x, torch.tensor([1]), eps=0.1, steps=20, population=400, chunk=400)
    last = (seen[-1] - x)[0]
    assert len(seen[-1]) == 1 and not found.success.any() and torch.equal(found.images, x)
    clear = w.abs() > 0.5
    assert (last.sign() == -w.sign())[clear].float().mean() > 0.95 and last.abs().max() <= 0.1 + 1e-6


def test_one_step_of_nattack_is_the_score_function_estimate(small):
    f, x, y = small
    k, sigma, lr, seen = 12, 0.6, 0.02, []
    with torch.no_grad():
        bias = 0.5 + al.gradients.margin(f(x[:1]), y[:1])  # just inside the boundary

    def far(images):
        seen.append(images)
        return f(images) + bias * torch.nn.functional.one_hot(y[:1], 3)

    nattack(far, x[:1], y[:1], eps=1.0, steps=1, population=k, sigma=sigma, lr=lr)
    u = torch.cat(
        [Draw(0, torch.zeros(1, dtype=torch.int64), copy=i, stream=Stream.NATTACK).normal(3, 4, 4) for i in range(k)]
    )
    w = torch.atanh((2 * x[:1] - 1) * (1 - 1e-4))
    samples = (torch.tanh(w + sigma * u) + 1) / 2
    with torch.no_grad():
        reward = -torch.relu(-al.gradients.margin(far(samples), y[:1].expand(k)))
    seen.pop()
    assert 0 < (reward == 0).sum() < k
    score = (reward - reward.mean()) / reward.std(correction=0)
    mean = lr / (k * sigma) * (score[:, None, None, None] * u).sum(0)
    assert torch.allclose(seen[-1], (torch.tanh(w + mean) + 1) / 2, atol=1e-5)


def test_nattack_succeeds_where_it_says_so_in_the_ball_and_counts_every_question(small):
    f, x, y = small
    found = nattack(f, x, y, **FEW)
    assert f.shown - 2 == found.queries.sum() and found.queries.dtype == torch.int64
    assert ((found.queries - 1) % 41 == 0).all() and len(found.queries.unique()) > 1  # 40 samples and their mean a step
    with torch.no_grad():
        assert torch.equal(f(found.images).argmax(1) != y, found.success) and found.success.any()
    assert (found.images - x).abs().max() <= 0.2 + 1e-6 and found.images.min() >= 0 and found.images.max() <= 1


def test_nattack_hits_targets(small):
    f, x, y = small
    found = nattack(f, x, y, **{**FEW, "eps": 0.4}, target=(y + 1) % 3)
    with torch.no_grad():
        assert torch.equal(f(found.images).argmax(1) == (y + 1) % 3, found.success) and found.success.any()


def test_image_alone_is_attacked_as_in_a_batch(small):
    f, x, y = small
    index = torch.tensor([4, 1, 8, 3])
    whole = nattack(f, x, y, **FEW, seed=2, index=index)
    for i in range(4):
        alone = nattack(f, x[i : i + 1], y[i : i + 1], **FEW, seed=2, index=index[i : i + 1])
        assert torch.allclose(alone.images, whole.images[i : i + 1], atol=1e-5)
        assert alone.queries == whole.queries[i] and alone.success == whole.success[i]
    other = nattack(f, x, y, **FEW, seed=3, index=index)
    assert not torch.allclose(other.images, whole.images, atol=1e-3)


def test_image_that_is_adversarial_already_costs_one_query(small):
    f, x, y = small
    found = nattack(f, x, (y + 1) % 3, **FEW)
    assert torch.equal(found.images, x) and found.success.all() and (found.queries == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_in_the_ball_and_is_what_was_asked(dtype, small):
    f, x, y = small
    x = x.to(dtype)
    found = nattack(f, x, y, **FEW)
    with torch.no_grad():
        assert torch.equal(f(found.images).argmax(1) != y, found.success) and found.success.any()
    assert found.images.dtype == dtype and (found.images.double() - x.double()).abs().max() <= 0.2


def test_answers_that_are_no_numbers_are_an_error(small):
    f, x, y = small
    broken = lambda z: f(z) * (float("nan") if len(z) > 4 else 1)  # noqa: E731
    with pytest.raises(ValueError, match="model: its gradient is NaN"):
        nattack(broken, x, y, **FEW)


@pytest.mark.parametrize(
    "options", [{"population": 1}, {"sigma": 0.0}, {"lr": -1}, {"steps": 0}, {"eps": 2}, {"chunk": 0}, {"seed": 0.5}]
)
def test_bad_argument_is_refused_by_name(options, small):
    f, x, y = small
    with pytest.raises((TypeError, ValueError), match=rf"\b{next(iter(options))}\b"):
        nattack(f, x, y, **options)
