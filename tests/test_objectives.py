"""What is minimised: limits, where the randomness comes from, and what must not be touched on the way."""

import pytest
import torch
import torch.nn.functional as F
from conftest import grid_images, tiny_model

from advlib import attacks, objectives
from advlib.draws import Draw
from advlib.objectives import Adversarial, Classification, EnsembleAdversarial, NoisyClassification
from advlib.training import Recipe


@pytest.fixture
def batch():
    x = grid_images(8)
    return x, torch.arange(8), Draw(0, torch.arange(8), step=3)


@pytest.fixture
def pool(monkeypatch):
    """Two static networks under the names a, b."""
    static = {"a": tiny_model(1).requires_grad_(False), "b": tiny_model(2).requires_grad_(False)}
    monkeypatch.setattr(objectives, "_static", lambda name, device: static[name])
    return static


@pytest.mark.parametrize("objective", [Adversarial(eps=0.0), EnsembleAdversarial(("a", "b"), eps=0.0)])
def test_without_a_radius_it_is_classification(objective, batch, pool, model):
    assert torch.allclose(objective(model, *batch), Classification()(model, *batch), atol=1e-6)


def test_classification_is_the_mean_cross_entropy(batch, model):
    x, y, draw = batch
    assert torch.equal(Classification()(model, x, y, draw), F.cross_entropy(model(x), y))


def test_adversarial_loss_is_that_of_the_same_pgd(batch, model):
    x, y, draw = batch
    found = Adversarial(eps=8 / 255, steps=3, alpha=4 / 255)(model, x, y, draw)
    adv = attacks.pgd(model, x, y, 8 / 255, 3, 4 / 255, seed=objectives._seed(draw), index=draw.index)
    assert torch.allclose(found, F.cross_entropy(model(adv), y)) and found > Classification()(model, x, y, draw)


@pytest.mark.parametrize(
    "objective",
    [NoisyClassification(0.5), Adversarial(eps=0.1, steps=1, alpha=0.01), EnsembleAdversarial(("a",), eps=0.1)],
)
def test_draws_belong_to_image_and_epoch(objective, batch, pool, model):
    x, y, draw = batch
    assert torch.equal(objective(model, x, y, draw), objective(model, x, y, draw))
    other_epoch, other_seed = draw.at(step=4), Draw(1, draw.index, step=3)
    for other in (other_epoch, other_seed):
        assert not torch.equal(objective(model, x, y, other), objective(model, x, y, draw))


@pytest.mark.parametrize("objective", [Adversarial(steps=4), EnsembleAdversarial(("a", "b"))])
def test_only_the_pass_that_is_minimised_changes_batchnorm_and_only_the_model_gets_gradients(objective, batch, pool):
    model = tiny_model().train()
    objective(model, *batch).backward()
    passes = 1 if isinstance(objective, Adversarial) else 2
    assert model.net[1].num_batches_tracked == passes and model.training
    assert all(p.grad is not None and p.requires_grad for p in model.parameters())
    assert all(p.grad is None for net in pool.values() for p in net.parameters())


def test_ensemble_takes_turns_and_draws_radii_from_the_truncated_normal(pool, model, monkeypatch):
    used, radii = [], []

    def fgsm(maker, x, y, eps, index):
        used.append(maker)
        return x + eps

    monkeypatch.setattr(objectives.attacks, "fgsm", fgsm)
    x, y = torch.full((64, 3, 8, 8), 0.5), torch.zeros(64, dtype=torch.int64)
    spy = lambda z: radii.append((z - 0.5).amax((1, 2, 3))) or model(z)  # noqa: E731
    for step in range(40):
        EnsembleAdversarial(("a", "b"), eps=0.2)(spy, x, y, Draw(0, torch.arange(64) + 64 * step, step))
    seen = [sum(maker is net for maker in used) for net in (spy, pool["a"], pool["b"])]
    assert sum(seen) == 40 and min(seen) >= 6
    drawn = torch.cat(radii[1::2]) / 0.1  # in standard deviations; a half-normal below 2
    assert drawn.max() <= 2 and (drawn < 1).float().mean() == pytest.approx(0.6827 / 0.9545, abs=0.03)


def test_a_recipe_says_what_is_minimised():
    facts = Recipe(objective=Adversarial(steps=2)).facts()
    assert "Adversarial" in facts["objective"] and "steps=2" in facts["objective"]
    assert facts != Recipe(objective=Adversarial(steps=3)).facts()
