"""Counter-based randomness: the same number for the same place, whatever the batch; uniform, normal, uncorrelated."""

import pytest
import torch
from scipy.stats import chi2, kstest

from advlib.core.draws import Draw, mix

INDEX = torch.arange(4096)


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1].abs().item()


def test_same_place_gives_the_same_numbers():
    a, b = Draw(3, INDEX, 2, 1, 5), Draw(3, INDEX.clone(), 2, torch.full_like(INDEX, 1), 5)
    assert torch.equal(a.words(7), b.words(7))


def test_draws_do_not_depend_on_batch_shard_or_order():
    whole = Draw(7, INDEX, step=3).uniform(3, 2)
    order = torch.randperm(len(INDEX), generator=torch.Generator().manual_seed(0))
    assert torch.equal(Draw(7, INDEX[order], step=3).uniform(3, 2), whole[order])
    shards = [Draw(7, part, step=3).uniform(3, 2) for part in INDEX.split(1000)]
    assert torch.equal(torch.cat(shards), whole)
    assert torch.equal(Draw(7, INDEX[17:18], step=3).uniform(3, 2), whole[17:18])


def test_fewer_numbers_are_the_first_of_more():
    d = Draw(0, INDEX)
    assert torch.equal(d.words(3), d.words(9)[:, :3])


def test_int32_and_int64_indices_give_the_same_numbers():
    assert torch.equal(Draw(1, INDEX.int()).words(4), Draw(1, INDEX).words(4))


@pytest.mark.parametrize("change", [{"seed": 2}, {"step": 1}, {"copy": 1}, {"stream": 1}, {"index": INDEX + 4096}])
def test_every_coordinate_changes_every_word(change):
    a = Draw(1, INDEX)
    b = a.at(**change)
    assert (a.words(4) == b.words(4)).float().mean() < 1e-3
    assert correlation(a.uniform(4), b.uniform(4)) < 0.03


def test_branches_are_independent_and_the_first_is_the_draw_itself():
    root = Draw(3, INDEX, step=2)
    first, second, third = (root.branch(torch.full_like(INDEX, k)) for k in (0, 1, 2))
    assert torch.equal(first.words(4), root.words(4))
    for a, b in ((root, second), (second, third), (second, Draw(3, INDEX + 1, step=2))):
        assert (a.words(4) == b.words(4)).float().mean() < 1e-3 and correlation(a.uniform(4), b.uniform(4)) < 0.03
    rows = Draw(3, INDEX.repeat(2), step=2).branch(torch.arange(2).repeat_interleave(len(INDEX)))
    assert torch.equal(rows.words(4), torch.cat([first.words(4), second.words(4)]))


def test_the_way_of_an_attack_changes_no_number():
    assert torch.equal(Draw(3, INDEX).words(4), Draw(3, INDEX, sign=-1).words(4))


def test_coordinates_are_not_interchangeable():
    pairs = [Draw(0, INDEX, step=5), Draw(0, INDEX, copy=5), Draw(0, INDEX, stream=5), Draw(5, INDEX)]
    words = torch.stack([d.words(1)[:, 0] for d in pairs])
    assert len(torch.unique(words)) > words.numel() - 20


def test_negative_and_large_seeds_are_accepted():
    words = [Draw(seed, INDEX[:8]).words(2) for seed in (-1, 0, 2**31, 2**32 - 2)]
    assert len(torch.unique(torch.stack(words))) == 64


def test_mix_is_injective_on_consecutive_words():
    assert len(torch.unique(mix(torch.arange(-50_000, 50_000, dtype=torch.int32)))) == 100_000


def test_uniform_stays_in_the_half_open_interval_with_right_moments():
    u = Draw(0, INDEX).uniform(16).double()
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 1 / 2) < 5 * (1 / 12 / u.numel()) ** 0.5
    assert abs(u.var() - 1 / 12) < 5 * (1 / 180 / u.numel()) ** 0.5


@pytest.mark.parametrize("draw", [Draw(0, INDEX), Draw(9, INDEX, 4, 3, 33)], ids=["plain", "far"])
def test_uniform_passes_chi_square_in_16_bins(draw):
    u = draw.uniform(8)
    counts, expected = torch.histc(u, 16, 0, 1), u.numel() / 16
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.9999, 15)


def test_neighbouring_images_and_counters_are_uncorrelated():
    u = Draw(0, torch.arange(20_000)).uniform(4)
    assert correlation(u[:-1], u[1:]) < 0.02
    for a in range(4):
        for b in range(a):
            assert correlation(u[:, a], u[:, b]) < 0.03


def test_steps_of_one_image_are_uniform_too():
    u = torch.cat([Draw(0, INDEX[:1], step=t).uniform(1)[0] for t in range(1000)])
    assert kstest(u.numpy(), "uniform").pvalue > 1e-4


def test_normal_has_the_moments_and_the_distribution_of_a_normal():
    z = Draw(5, INDEX).normal(4, 2)
    assert z.shape == (4096, 4, 2) and torch.isfinite(z).all()
    assert abs(z.mean()) < 0.03 and abs(z.var() - 1) < 0.04
    assert abs((z**3).mean()) < 0.07 and abs((z**4).mean() - 3) < 0.2
    assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-4


def test_shape_without_sides_is_one_number_an_image():
    assert Draw(0, INDEX).uniform().shape == (4096,)
