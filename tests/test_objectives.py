"""What is minimised: limits, where the randomness comes from, and what must not be touched on the way."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import grid_images, tiny_model
from torch import nn

from advlib import attacks, lipschitz
from advlib.core.draws import Draw, Stream
from advlib.core.surrogate import Normalized
from advlib.training import objectives
from advlib.training.fitting import Recipe
from advlib.training.objectives import (
    SAF,
    Adversarial,
    Classification,
    Compression,
    EnsembleAdversarial,
    GuidedDenoising,
    LipschitzRegularized,
    NoisyClassification,
    SelfSupervisedPurification,
)
from advlib.zoo.purifiers import CompressionPair, Critic, DenoisingUNet, NRPNet, Purified


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


def test_classification_has_the_losses_of_images(batch, model):
    x, y, draw = batch
    losses = Classification().losses(model, x, y, draw)
    assert losses.shape == (8,) and torch.allclose(losses.mean(), Classification()(model, x, y, draw))


# --- a loss of the trajectory ----------------------------------------------------------------------------------------


def saf_by_hand(now, then, y, lam, tau):
    p, q = (then / tau).softmax(1), (now / tau).softmax(1)
    return F.cross_entropy(now, y) + lam * tau**2 * (p * (p / q).log()).sum(1).mean()


def test_saf_compares_with_the_outputs_of_some_epochs_ago(batch):
    x, y, draw = batch
    nets = [tiny_model(seed) for seed in range(5)]
    objective = SAF(lam=0.4, tau=3.0, start=1, back=2).begin(draw.index)
    for epoch, net in enumerate(nets):
        found, z = objective(net, x, y, draw.at(step=epoch)), net(x)
        late = epoch > 1
        wanted = saf_by_hand(z, nets[epoch - 2](x).detach(), y, 0.4, 3.0) if late else F.cross_entropy(z, y)
        assert torch.allclose(found, wanted, atol=1e-5) and (not late or found > F.cross_entropy(z, y))
        gradients = [torch.autograd.grad(loss, net.net[5].weight)[0] for loss in (found, wanted)]
        assert torch.allclose(*gradients, atol=1e-5)


def test_saf_begins_where_it_says_and_without_a_past_it_is_classification(batch, model):
    x, y, draw = batch
    wanted = Classification()(model, x, y, draw)
    assert torch.equal(SAF()(model, x, y, draw), wanted)
    for begun in (SAF(start=3, back=1).begin(draw.index), SAF(lam=0.0, start=0, back=1).begin(draw.index)):
        for epoch in range(4):
            assert torch.equal(
                begun(tiny_model(epoch), x, y, draw.at(step=epoch)), F.cross_entropy(tiny_model(epoch)(x), y)
            )


def test_saf_remembers_images_by_their_number_and_leaves_out_those_that_were_not_seen(batch):
    x, y, _ = batch
    index = torch.tensor([40, 3, 17, 99, 5, 60, 2, 8])
    one, two = tiny_model(1), tiny_model(2)
    objective = SAF(lam=1.0, tau=2.0, start=0, back=1).begin(index)
    objective(one, x[:6], y[:6], Draw(0, index[:6], step=0))
    order = torch.tensor([7, 5, 0, 3])  # the first of them was not seen
    found = objective(two, x[order], y[order], Draw(0, index[order], step=1))
    terms = [saf_by_hand(two(x[[k]]), one(x[[k]]), y[[k]], 1.0, 2.0) for k in (5, 0, 3)]
    wanted = (sum(terms) + F.cross_entropy(two(x[[7]]), y[[7]])) / 4
    assert torch.allclose(found, wanted, atol=1e-5)


def test_saf_compares_all_passes_of_a_step_with_the_same_past_and_goes_on_from_its_state(batch):
    x, y, draw = batch
    objective, other = (SAF(start=0, back=1).begin(draw.index) for _ in range(2))
    objective(tiny_model(1), x, y, draw.at(step=0))
    other.load_state_dict(objective.state_dict())
    first, again = (objective(tiny_model(2), x, y, draw.at(step=1)) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(first, other(tiny_model(2), x, y, draw.at(step=1)))


def test_adversarial_loss_is_that_of_the_same_pgd(batch, model):
    x, y, draw = batch
    found = Adversarial(eps=8 / 255, steps=3, alpha=4 / 255)(model, x, y, draw)
    adv = attacks.pgd(model, x, y, 8 / 255, 3, 4 / 255, seed=objectives._seed(draw), index=draw.index)
    assert torch.allclose(found, F.cross_entropy(model(adv), y)) and found > Classification()(model, x, y, draw)


def test_the_radius_grows_with_the_epochs(batch, model):
    x, y, draw = batch
    ramped, whole = Adversarial(steps=2, ramp=4), Adversarial(steps=2)
    quarter = Adversarial(eps=2 / 255, steps=2, alpha=0.5 / 255)
    assert torch.equal(ramped(model, x, y, draw.at(step=0)), quarter(model, x, y, draw.at(step=0)))
    for epoch in (3, 9):
        assert torch.equal(ramped(model, x, y, draw.at(step=epoch)), whole(model, x, y, draw.at(step=epoch)))


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


class ControlFlow(nn.Module):
    """A network that torch.fx cannot trace."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        if x.isnan().any():
            raise ValueError("NaN")
        return self.net(x)


def weight_normed(net):
    nn.utils.parametrizations.weight_norm(net.net[0])
    return net


@pytest.mark.parametrize(
    "wrapped",
    [weight_normed, ControlFlow, nn.DataParallel, lambda net: torch.compile(net, backend="eager")],
    ids=["weight norm", "control flow", "DataParallel", "compiled"],
)
@pytest.mark.parametrize("objective", [Adversarial(steps=2), EnsembleAdversarial((), eps=0.1)])
def test_networks_that_cannot_be_folded_are_attacked_as_they_are(batch, wrapped, objective):
    torch._dynamo.reset()
    model, plain = wrapped(tiny_model().train()), tiny_model().train()
    for _ in range(2):
        assert torch.allclose(objective(model, *batch), objective(plain, *batch), atol=1e-6)
    assert model.training and all(p.requires_grad for p in model.parameters())


def test_a_static_network_that_cannot_be_folded_is_taken_as_it_is(monkeypatch, batch):
    monkeypatch.setattr(objectives.models, "load", lambda name: ControlFlow(tiny_model()))
    objectives._static.cache_clear()
    net = objectives._static("a", batch[0].device)
    objectives._static.cache_clear()
    assert torch.allclose(net(batch[0]), tiny_model()(batch[0]), atol=1e-6)


def test_ensemble_takes_turns_and_draws_radii_from_the_truncated_normal(pool, model, monkeypatch):
    used, radii = [], []

    def fgsm(maker, x, y, eps, index):
        used.append(maker)
        return x + eps

    monkeypatch.setattr(objectives.attacks, "fgsm", fgsm)
    monkeypatch.setattr(objectives.acceleration, "accelerate", lambda net: net)
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


# --- purifiers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def purified():
    torch.manual_seed(0)
    return lambda net: Purified(net, tiny_model(), Critic((8, 8))).train()


def test_denoising_starts_from_the_identity_where_clean_images_cost_nothing(batch, pool, purified, monkeypatch):
    x, y, draw = batch
    model = purified(DenoisingUNet((8, 16), (1, 2)))
    assert torch.equal(model.purifier(x), x)
    assert GuidedDenoising(("a", "b"), eps=0.1)(model, x, y, draw) > 0
    monkeypatch.setattr(objectives.attacks, "i_fgsm", lambda maker, x, y, **options: x)
    assert GuidedDenoising(("a", "b"))(model, x, y, draw) == 0


def test_compression_loss_by_hand(batch, purified):
    x, y, draw = batch
    model = purified(CompressionPair((8, 8)))
    noise = draw.at(stream=Stream.OBJECTIVE).normal(12, 8, 8)
    code = torch.sigmoid(model.purifier.encoder(x - 0.5) - 20 * noise)
    wanted = ((torch.sigmoid(model.purifier.decoder(code)) - x) ** 2).mean() + 1e-4 * (code**2).mean()
    assert torch.allclose(Compression()(model, x, y, draw), wanted)


def test_a_code_in_use_is_bits_with_a_gradient():
    pair, x = CompressionPair((8, 8)), grid_images(2).requires_grad_()
    code = pair.code(x)
    assert set(code.unique().tolist()) == {0.0, 1.0} and code.shape == (2, 12, 8, 8)
    (grad,) = torch.autograd.grad(pair(x).sum(), x)
    assert grad.abs().max() > 0


@pytest.fixture
def vgg(monkeypatch):
    """A stand-in with the shape of the zoo's VGG: normalised, its first part a Sequential of layers."""
    torch.manual_seed(1)
    features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    model = Normalized(nn.Sequential(features), (0.5,) * 3, (0.25,) * 3).requires_grad_(False)
    monkeypatch.setattr(objectives.models, "load", lambda name: copy.deepcopy(model))
    objectives._first_layers.cache_clear()
    return model


def test_the_features_are_those_of_the_first_layers(batch, vgg):
    first = vgg.net[0][1](vgg.net[0][0]((batch[0] - vgg.mean) / vgg.std))
    # Which order a convolution adds in hangs on the processor, and a feature may be nearly 0.
    assert torch.allclose(objectives._first_layers("vgg", 2, batch[0].device)(batch[0]), first, atol=1e-5)


def test_self_supervised_perturbation_moves_the_features_inside_the_ball(batch, vgg):
    x, y, draw = batch
    objective = SelfSupervisedPurification("vgg", eps=8 / 255, steps=5)
    features = objectives._first_layers("vgg", objective.depth, x.device)
    wanted = features(x)
    distance = lambda z: (features(z) - wanted).square().mean()  # noqa: E731
    radii = []
    for epoch in range(8):
        adv = objective.perturbed(features, x, y, draw.at(step=epoch), wanted)
        radii.append((adv - x).abs().max())
        noise = x + radii[-1] * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign()
        assert radii[-1] <= 8 / 255 + 1e-6 and distance(adv) > 2 * distance(noise)
    assert torch.stack(radii).std() > 1 / 255


def test_the_critic_learns_from_its_own_loss_alone_and_the_purifier_not_from_it(batch, vgg, purified):
    x, y, draw = batch
    model = purified(NRPNet(blocks=1, width=8, growth=4))
    fake = model.purifier(x)
    objectives._relativistic(model.critic, fake, x).backward(retain_graph=True)
    assert all(p.grad is None for p in model.critic.parameters())
    assert any(p.grad is not None for p in model.purifier.parameters())
    model.zero_grad(set_to_none=True)
    objectives._relativistic_critic(model.critic, fake, x).backward()
    assert all(p.grad is not None for p in model.critic.parameters())
    assert all(p.grad is None for p in model.purifier.parameters())
    model.zero_grad(set_to_none=True)
    SelfSupervisedPurification("vgg", steps=2)(model, x, y, draw).backward()
    assert all(p.grad is not None for net in (model.critic, model.purifier) for p in net.parameters())


@pytest.mark.parametrize("objective", [GuidedDenoising(("a",)), Compression()])
def test_the_classifier_behind_a_purifier_stays_as_it_is(objective, batch, pool, purified):
    net = DenoisingUNet((8, 16), (1, 2)) if isinstance(objective, GuidedDenoising) else CompressionPair((8, 8))
    model = purified(net)
    before = {k: v.clone() for k, v in model.classifier.state_dict().items()}
    objective(model, *batch).backward()
    assert all(torch.equal(v, before[k]) for k, v in model.classifier.state_dict().items())
    assert all(p.grad is None for p in model.classifier.parameters()) and not model.classifier.training


def test_published_sizes():
    count = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    assert count(NRPNet(23, 64, 32)) == 16_550_275
    assert CompressionPair((16, 32, 64, 128, 256, 128, 64, 32)).decoder[-1].in_channels == 16


@pytest.mark.parametrize("net, tolerance", [(DenoisingUNet, 0.0), (NRPNet, 0.05)])
def test_training_starts_from_the_identity(net, tolerance):
    torch.manual_seed(0)
    x = grid_images(4, 32, 32)
    assert (net().eval()(x) - x).abs().mean() <= tolerance


def test_a_fresh_code_is_far_above_its_noise():
    torch.manual_seed(0)
    pair, x = CompressionPair(), grid_images(4, 32, 32)
    soft, bits = pair.code(x, torch.randn(4, 12, 32, 32)), pair.code(x)
    assert (soft - bits).abs().mean() < 0.3  # half of the bits would be 0.5


# --- Lipschitz regularization ----------------------------------------------------------------------------------------


def test_lipschitz_regularization_without_weights_is_classification(batch, model):
    x, y, draw = batch
    for mode in ("train", "eval"):
        model.train(mode == "train")
        statistics = model.net[1].running_mean.clone()
        found = LipschitzRegularized(0.0, 0.0, batchnorm=mode)(model, x, y, draw)
        model.net[1].running_mean.copy_(statistics)
        assert torch.allclose(found, Classification()(model, x, y, draw), atol=1e-6)


def test_lipschitz_regularization_is_the_loss_and_the_penalties(batch, model):
    x, y, draw = batch
    found = LipschitzRegularized(0.3, 0.7, 0.02, 0.5, form="text", batchnorm="eval")(model.train(), x, y, draw)
    penalty = lipschitz.lrs_f(model.eval(), x, y, 0.3, 0.7, 0.02, 0.5, "text").mean()
    assert torch.allclose(found, F.cross_entropy(model(x), y) + penalty, rtol=1e-4)


def test_only_the_clean_pass_changes_the_running_statistics(batch, model):
    x, y, draw = batch
    objective = LipschitzRegularized()
    wanted = copy.deepcopy(model).train()
    Classification()(wanted, x, y, draw)
    objective(model.train(), x, y, draw)
    assert all(torch.allclose(a, b) for a, b in zip(model.buffers(), wanted.buffers(), strict=True))
    wanted = copy.deepcopy(model)
    LipschitzRegularized(batchnorm="eval")(model, x, y, draw)
    assert (
        all(torch.equal(a, b) for a, b in zip(model.buffers(), wanted.buffers(), strict=True)) and model.net[1].training
    )


def test_dropout_drops_the_same_in_every_pass_of_a_penalty(batch, model):
    model.net.insert(3, nn.Dropout(0.5))
    passes = []
    model.net[3].register_forward_hook(lambda layer, inputs, out: passes.append((inputs[0] != 0, out == 0)))
    torch.manual_seed(0)
    Classification()(model.train(), *batch)
    after, ((alive, dropped),) = torch.get_rng_state(), list(passes)
    torch.manual_seed(0)
    LipschitzRegularized()(model, *batch)
    assert len(passes) == 4 and torch.equal(torch.get_rng_state(), after)
    for other, there in passes[1:]:  # a step moves some of what the ReLU before it lets through
        assert torch.equal(dropped[alive & other], there[alive & other]) and (alive & other).sum() > 500


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "name", "values", "error"),
    [
        (LipschitzRegularized, "batchnorm", ["batch"], ValueError),
        (LipschitzRegularized, "lambda1", [-1.0, NAN, INF], ValueError),
        (LipschitzRegularized, "lambda2", [-1.0, NAN, INF], ValueError),
        (LipschitzRegularized, "h1", [0.0, NAN, INF], ValueError),
        (LipschitzRegularized, "h2", [0.0, NAN, INF], ValueError),
        (LipschitzRegularized, "direction1", ["l1"], ValueError),
        (LipschitzRegularized, "form", ["thesis"], ValueError),
        (LipschitzRegularized, "form", [None], TypeError),
        (NoisyClassification, "sigma", [-1.0, NAN, INF], ValueError),
        (NoisyClassification, "sigma", ["a", None, True], TypeError),
        (Adversarial, "eps", [8, -0.1, NAN], ValueError),
        (Adversarial, "steps", [0], ValueError),
        (Adversarial, "alpha", [-1.0, NAN], ValueError),
        (Adversarial, "ramp", [0], ValueError),
        (Adversarial, "ramp", [1.5], TypeError),
        (EnsembleAdversarial, "pool", ["shapes/resnet", None, (3,)], TypeError),
        (GuidedDenoising, "makers", [()], ValueError),
        (Compression, "penalty", [-1.0, NAN], ValueError),
        (SAF, "lam", [-1.0, NAN], ValueError),
        (SAF, "tau", [0.0, NAN], ValueError),
        (SAF, "start", [-1], ValueError),
        (SAF, "back", [0], ValueError),
        (SAF, "back", [1.0, None], TypeError),
        (SelfSupervisedPurification, "features", [3], TypeError),
    ],
)
def test_values_are_refused_by_name_where_an_objective_is_made(make, name, values, error):
    for value in values:
        with pytest.raises(error, match=f"^{name}"):
            make(**{name: value})


def test_a_compiled_network_is_regularized_as_the_uncompiled_one(batch):
    torch._dynamo.reset()
    found = []
    for wrapped in (lambda net: net, lambda net: torch.compile(net, backend="aot_eager")):
        model = tiny_model().train()
        loss = LipschitzRegularized()(wrapped(model), *batch)
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters()), *model.buffers()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


def test_a_checkpointed_vision_transformer_is_regularized_as_the_plain_one():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "num_classes": 10, "depth": 2}
    net, x, y = timm.create_model("vit_tiny_patch16_224", **size), grid_images(2, 32, 32), torch.arange(2)
    found = []
    for checkpointing in (False, True):
        net.set_grad_checkpointing(checkpointing)
        loss = LipschitzRegularized()(net.train(), x, y, Draw(0, y))
        found.append(torch.autograd.grad(loss, list(net.parameters())))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))
