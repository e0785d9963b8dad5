"""Folding changes no function: what is used twice, watched, parametrised or random stays as it is."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import grid_images
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn
from torch.nn.utils import parametrizations, spectral_norm

from advlib import accelerate
from advlib.bench.evaluation import counting
from advlib.zoo import folding


def noisy(net, seed=0):
    """Norms whose statistics and weights matter, as after training; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.normal_(0, 0.5, generator=generator)
            layer.running_var.uniform_(0.2, 2, generator=generator)
            layer.weight.data.uniform_(1, 3, generator=generator)
            layer.bias.data.normal_(0, 0.5, generator=generator)
    return net.eval()


class Net(nn.Module):
    """Convolution `conv`, norm `bn`, and a `rule` that says how a pass uses them; logits are means over places."""

    def __init__(self, rule=lambda s, x: s.bn(s.conv(x)), conv=None, bn=None):
        super().__init__()
        torch.manual_seed(0)
        self.rule, self.conv, self.bn = rule, conv or nn.Conv2d(3, 3, 3, padding=1), bn or nn.BatchNorm2d(3)
        noisy(self)

    def forward(self, x):
        return F.relu(self.rule(self, x)).mean((2, 3))


def norms(net):
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())


def assert_same(net, fast, side=16, rtol=1e-5):
    x = grid_images(4, side, side, seed=3)
    with torch.no_grad():
        assert torch.allclose(fast(x), net(x), rtol=rtol, atol=1e-5)


# --- what is folded ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_used_once_goes_into_its_convolution(bias, affine):
    bn = nn.BatchNorm2d(3, affine=affine)
    bn.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3]))
    bn.running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))
    net = nn.Sequential(nn.Conv2d(3, 3, 3, bias=bias), bn, nn.Flatten()).eval()
    fast = accelerate(net)
    assert norms(fast) == 0 and norms(net) == 1 and type(fast) is nn.Sequential
    scale = (bn.running_var + bn.eps).rsqrt() * (bn.weight if affine else 1)
    assert torch.allclose(fast[0].weight, net[0].weight * scale[:, None, None, None], atol=1e-6)
    assert_same(net, fast)


def test_timms_layers_are_folded_and_their_activation_stays():
    net = Net(conv=Conv2dSame(3, 3, 3, stride=2), bn=BatchNormAct2d(3, act_layer=nn.SiLU))
    fast = accelerate(net)
    assert norms(fast) == 0 and any(isinstance(layer, nn.SiLU) for layer in fast.modules())
    assert_same(net, fast)


def test_blocks_names_and_own_attributes_of_the_network_stay():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    fast = accelerate(noisy(net))
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in net.named_modules()]
    assert set(vars(fast)) == set(vars(net))


# --- what is not ------------------------------------------------------------------------------------------------------

LEFT = {
    "convolution twice, one norm": lambda s, x: s.conv(F.relu(s.bn(s.conv(x)))),
    "norm twice": lambda s, x: s.bn(s.conv(s.bn(x))),
    "output used elsewhere": lambda s, x: s.bn(h := s.conv(x)) + h,
    "output used by a function first": lambda s, x: s.bn(F.relu(s.conv(x))),
    "weight read by a function": lambda s, x: s.bn(s.conv(x)) + F.conv2d(x, s.conv.weight, padding=1),
    "weight read for its value": lambda s, x: s.bn(s.conv(x)) * s.conv.weight.abs().mean(),
    "statistics read": lambda s, x: s.bn(s.conv(x)) - s.bn.running_mean[:, None, None],
}


@pytest.mark.parametrize("rule", LEFT.values(), ids=LEFT)
def test_a_pair_that_is_seen_elsewhere_is_left_as_it_is(rule):
    net = Net(rule)
    fast = accelerate(net)
    assert norms(fast) == 1
    assert_same(net, fast)


def test_a_convolution_with_two_norms_is_in_both_places_what_it_was():
    net = Net(lambda s, x: s.bn(s.conv(x)) + s.other(s.conv(x)))
    net.other = nn.BatchNorm2d(3)
    noisy(net, seed=1)
    fast = accelerate(net)
    assert norms(fast) == 2
    assert_same(net, fast)


def test_a_weight_that_another_convolution_shares_is_folded_once():
    net = Net(lambda s, x: s.tied(F.relu(s.bn(s.conv(x)))))
    net.tied = nn.Conv2d(3, 3, 3, padding=1)
    net.tied.weight = net.conv.weight
    fast = accelerate(net)
    assert norms(fast) == 0 and torch.equal(fast.tied.weight, net.tied.weight)
    assert_same(net, fast)


@pytest.mark.parametrize(
    "conv",
    [
        lambda c: parametrizations.weight_norm(c),
        lambda c: parametrizations.spectral_norm(c),
        lambda c: spectral_norm(c),
    ],
)
def test_a_parametrised_convolution_stays(conv):
    layer = nn.Conv2d(3, 3, 3, padding=1)
    net = Net(conv=conv(layer))
    try:
        fast = accelerate(net)
    except ValueError as error:  # of the old kind of spectral norm, whose weight torch cannot copy
        assert "cannot be copied" in str(error)
    else:
        assert norms(fast) == 1
        assert_same(net, fast)


def test_a_subclass_with_a_forward_of_its_own_stays():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight / self.weight.std(), self.bias, padding=1)

    net = Net(conv=Standardised(3, 3, 3, padding=1))
    fast = accelerate(net)
    assert norms(fast) == 1
    assert_same(net, fast)


def test_a_norm_without_running_statistics_stays():
    net = Net(bn=nn.BatchNorm2d(3, track_running_stats=False))
    fast = accelerate(net)
    assert norms(fast) == 1
    assert_same(net, fast)


# --- hooks, random layers, attributes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["conv", "bn"])
@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_a_hook_on_either_layer_keeps_the_pair_and_is_called(layer, hook):
    calls, net = [], Net()
    getattr(net.get_submodule(layer), hook)(lambda *given: calls.append(given))
    fast = accelerate(net)
    calls.clear()
    fast(grid_images(2).requires_grad_()).sum().backward()
    assert norms(fast) == 1 and len(calls) == 1


def test_a_hook_that_would_see_the_output_of_a_convolution_keeps_the_norm():
    net, seen = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 3)), nn.BatchNorm2d(3), nn.Flatten()), []
    noisy(net)
    net[0].register_forward_hook(lambda layer, inputs, output: seen.append(output))
    fast, x = accelerate(net), grid_images(2)
    seen.clear()
    net(x), fast(x)
    assert norms(fast) == 1 and torch.allclose(seen[0], seen[1], atol=1e-6)


def test_a_hook_around_a_pair_is_kept_and_never_given_a_proxy():
    net, seen = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)), nn.Flatten()), []
    noisy(net)
    net[0].register_forward_hook(lambda layer, inputs, output: seen.append(output))
    fast = accelerate(net)
    assert norms(fast) == 0 and seen and all(isinstance(output, torch.Tensor) for output in seen)
    seen.clear()
    net(grid_images(2)), fast(grid_images(2))
    assert torch.allclose(seen[0], seen[1], atol=1e-5)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_passes_of_a_bare_module_are_counted_in_a_copy_that_is_made_meanwhile(dtype):
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Flatten())
    with counting(noisy(net)) as counter:
        fast = accelerate(net, dtype=dtype)
        assert counter.rows == 0  # the trial of the fold is no pass of an attack
        fast(grid_images(5))
        assert counter.rows == 5


def test_a_random_layer_stays_random_and_no_generator_moves():
    net = Net(lambda s, x: s.bn(s.conv(x)) + torch.randn(3, 1, 1))
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    fast = accelerate(net)
    assert torch.equal(torch.rand(3), wanted) and norms(fast) == 0
    x = grid_images(2)
    assert not torch.equal(fast(x), fast(x))
    torch.manual_seed(2)
    by_net = net(x)
    torch.manual_seed(2)
    assert torch.allclose(fast(x), by_net, atol=1e-5)


def test_what_a_pass_leaves_in_an_attribute_is_no_proxy():
    def rule(s, x):
        s.last = s.bn(s.conv(x))
        return s.last

    fast = accelerate(Net(rule))
    assert isinstance(fast.last, torch.Tensor)


# --- networks that cannot be folded -----------------------------------------------------------------------------------


def test_arguments_with_a_default_do_not_hinder_the_trace():
    class Optional(Net):
        def forward(self, x, double=False, mask=None):
            out = super().forward(x) if mask is None else x
            return 2 * out if double else out

    net = Optional()
    fast = accelerate(net)
    assert norms(fast) == 0
    assert_same(net, fast)


UNTRACEABLE = {
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "scripted": lambda net: torch.jit.trace(net, grid_images(2)),
    "control flow": lambda net: Net(lambda s, x: s.bn(s.conv(x)) if x.sum() > 0 else x),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", UNTRACEABLE.values(), ids=UNTRACEABLE)
def test_a_network_that_cannot_be_traced_is_refused_by_class_and_runs_unfolded(make):
    net = make(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Flatten()).eval())
    with pytest.raises(ValueError, match=r"model: \w+ cannot be traced.*fold_batchnorm=False"):
        accelerate(net)
    assert_same(net, accelerate(net, fold_batchnorm=False), side=8)


def test_a_fold_that_changes_the_logits_is_refused(monkeypatch):
    absorb = folding._absorb
    monkeypatch.setattr(folding, "_absorb", lambda conv, norm: (absorb(conv, norm), conv.weight.data.mul_(1.1)))
    with pytest.raises(ValueError, match="model: Net gives other logits"):
        accelerate(Net())


@pytest.mark.parametrize("wrong", [lambda s, x: (s.bn(s.conv(x)),), lambda s, x: s.bn(s.conv(x)).long()])
def test_a_network_that_gives_no_logits_is_refused(wrong):
    class Raw(Net):
        def forward(self, x):
            return self.rule(self, x)

    with pytest.raises(ValueError, match="model: Raw returns .*expected floating-point logits"):
        accelerate(Raw(wrong))


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (5, 96)])
def test_the_trial_finds_the_size_that_the_network_takes(channels, side):
    torch.manual_seed(0)
    layers = nn.Conv2d(channels, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * side * side, 4)
    net = noisy(nn.Sequential(*layers))
    x = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(accelerate(net)(x), net(x), rtol=1e-4, atol=1e-5)


def test_a_network_of_a_size_that_is_not_tried_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(50, 4)).eval()
    with pytest.raises(ValueError, match="takes no square images of 32, .*fold_batchnorm=False"):
        accelerate(net)


def test_nothing_is_left_in_the_cache_of_torch_fx():
    net = Net()
    before = len(fx.graph_module._loader.eval_cache)
    for _ in range(3):
        accelerate(net)
    assert len(fx.graph_module._loader.eval_cache) == before


def test_ensembles_of_ensembles_and_their_hooks_are_kept():
    from advlib import ensemble

    calls, inner = [], ensemble([Net(), Net()])
    both = ensemble([inner, Net()])
    both.register_forward_pre_hook(lambda *given: calls.append(1))
    fast = accelerate(both)
    assert norms(fast) == 0
    calls.clear()
    assert_same(both, fast)
    assert len(calls) == 2  # of the ensemble and of its copy


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ((None,), "model"),
        ((lambda x: x,), "model"),
        ((Net,), "model"),
        (partial(Net), "model"),
        ((Net(), 1), "fold_batchnorm"),
        ((Net(), True, "bf16"), "dtype"),
        ((Net(), True, None, 1), "compile"),
    ],
)
def test_wrong_kinds_of_argument_are_refused_by_name(wrong, named):
    with pytest.raises(TypeError, match=named):
        accelerate(*(wrong if isinstance(wrong, tuple) else (wrong,)))


def test_a_dtype_that_is_no_float_and_a_model_that_cannot_be_copied_are_refused():
    with pytest.raises(ValueError, match="dtype=torch.int8"):
        accelerate(Net(), dtype=torch.int8)
    net = Net()
    net.held = (i for i in range(3))
    with pytest.raises(TypeError):
        copy.deepcopy(net)
    with pytest.raises(ValueError, match="model: Net cannot be copied"):
        accelerate(net)
