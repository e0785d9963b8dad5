"""No GPU is needed to see whether code would stay on one: on torch's "meta" device nothing is computed, and reading a
value back raises. `Watch` refuses what meta would let pass: an operand left on the processor, a copy across."""

import inspect
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import advlib as al
from advlib.core import facts
from advlib.core.draws import Draw

A, META, N, SIDE = al.attacks, torch.device("meta"), 3, 8


class Watch(TorchDispatchMode):
    """Refuses operations on tensors of two devices, scalars apart, which are handed over with the launch, and numbers
    of the host that are made a tensor of the device; `launches` counts the operations that would run something there.
    """

    def __init__(self):
        super().__init__()
        self.launches = 0
        self._made = Made()

    def __enter__(self):
        self._made.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._made.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        places = {t.device.type for t in tensors if t.dim()}
        assert len(places) < 2, f"{function}: tensors of two devices"
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        idle = view or any(word in function._schema.name for word in ("empty", "_unsafe_view"))
        self.launches += any(t.is_meta for t in tensors) and not idle
        return out


class Made(TorchFunctionMode):
    """Sees what no dispatch mode is shown: a copy of the host's numbers, for which a GPU is waited."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        copies = function in (torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor)
        assert not (copies and out.is_meta), f"{function}: numbers of the host"
        return out


@pytest.fixture
def looks():
    """The times at which an attack looks at values, on purpose: what there would be read. Here nothing is."""
    kept = []
    with facts.read_by(kept.append):
        yield kept


@cache
def network(seed=0):
    """A small ResNet in eval mode, whose weights are nowhere."""
    return al.models.create("resnet", dataset="shapes", seed=seed).eval().to(META)


def fast():
    """One whose BatchNorm is folded, which takes values."""
    return al.accelerate(al.models.create("resnet", dataset="shapes")).to(META)


def images(n=N):
    return torch.empty(n, 3, SIDE, SIDE, device=META)


def classes(n=N):
    return torch.empty(n, dtype=torch.int64, device=META)


# --- what the watch sees ---------------------------------------------------------------------------------------------


ON_THE_HOST = {
    "item": lambda x: x.sum().item(),
    "branch": lambda x: 1 if (x > 0).any() else 0,
    "copy back": lambda x: x.cpu(),
    "copy there": lambda x: torch.arange(N).to(x.device),
    "number of the host": lambda x: torch.tensor([1.0], device=x.device),
    "new number of the host": lambda x: x.new_tensor([1.0]),
    "operand": lambda x: x + torch.ones(SIDE),
    "index": lambda x: x[torch.arange(N)],
}


@pytest.mark.parametrize("way", ON_THE_HOST)
def test_whatever_passes_by_the_host_is_seen(way):
    x = images()
    with Watch(), pytest.raises((RuntimeError, AssertionError), match="meta|of the host|two devices"):
        ON_THE_HOST[way](x)


def test_launches_are_counted_and_views_are_not():
    x = images()
    with Watch() as watch:
        (x.view(N, -1) * 2 + 1).flatten().detach()[0]
        torch.empty_like(x).zero_()
        torch.ones(3) + 1
    assert watch.launches == 3


# --- attacks ---------------------------------------------------------------------------------------------------------


def two():
    return al.ensemble([network(seed=0), network(seed=1)])


PRESETS = {
    "fgsm": {},
    "i_fgsm": {},
    "pgd": {},
    "mi_fgsm": {},
    "ni_fgsm": {},
    "em_fgsm": {},
    "vmi_fgsm": {"points": 2},
    "vni_fgsm": {"points": 2},
    "emi_fgsm": {"points": 3},
    "svre": {"model": two, "rounds": 2},
    "smoothed_gradient": {"points": 2},
    "pgn": {"points": 2},
    "dim": {},
    "rdim": {},
    "tim": {},
    "sim": {},
    "re_fgsm": {},
    "composite": {},
    "admix": {"pool": images(4)},
    "taig": {"points": 2},
    "rap": {"late": 1},
    "aa": {"layer": "layer2.0"},
    "ata": {"layers": "layer2.0"},
    "aoa": {},
}
"""Every preset, with what it needs, and as few copies and points as show the whole of it."""
VARIANTS = {
    "L2": ("pgd", {"norm": "l2"}),
    "fresh noise": ("pgd", {"start": "every"}),
    "L2, fresh noise": ("pgd", {"start": "every", "norm": "l2"}),
    "targeted": ("rap", {"late": 1, "target": classes()}),
    "margin": ("pgd", {"loss": "margin"}),
    "of given index": ("dim", {"index": classes()}),
    "look-ahead in the ball": ("em_fgsm", {"project": "ball"}),
    "GNP": ("dim", al.GNP),
    "GNP, central, rescaled": ("mi_fgsm", {"wrap": partial(al.norm_penalty, difference="central", rescale=True)}),
    "EM-RE-Composite": ("composite", {"momentum": al.Elastic(1.0, 2.0), "transform": al.RandomErasure(2)}),
    "copies in chunks": ("re_fgsm", {"chunk": 2}),
    "grey erasure": ("re_fgsm", {"erasure": al.RandomErasure(aspect=0.3, fill=0.5)}),
    "TAIG-R in chunks": ("taig", {"points": 3, "noise": 0.1, "chunk": 2}),
    "neighbours in chunks": ("i_fgsm", {"wrap": partial(al.neighbours, radius=0.1, points=3, chunk=2)}),
    "targeted AA": ("aa", {"layer": "layer2.0", "toward": images(), "target": classes()}),
    "ensemble": ("mi_fgsm", {"model": two}),
    "probabilities": ("mi_fgsm", {"model": lambda: al.ensemble(list(two().members), "probabilities", [1, 2])}),
    "LinBP": ("mi_fgsm", {"model": lambda: al.linear_backward(network(), "layer2.0")}),
    "SGM": ("mi_fgsm", {"model": lambda: al.skip_gradient(network(), "bn2")}),
    "ghosts by dropout": ("mi_fgsm", {"model": lambda: al.dropout_erosion(network(), "bn1")}),
    "ghosts by skips": ("mi_fgsm", {"model": lambda: al.skip_erosion(network(), "layer*.0.bn2")}),
    "folded": ("mi_fgsm", {"model": fast}),
    "bfloat16": ("mi_fgsm", {"model": lambda: al.accelerate(network(), False, torch.bfloat16)}),
}
"""Options that take other ways through the loop, and the networks that attacks bring along."""
BESIDES = {"admix": 1, "aa": 2, "ata": 2}
"""Where values are looked at besides: the pool; the images, before their features are taken, and when they are."""
CASES = {name: (name, options) for name, options in PRESETS.items()} | VARIANTS


@pytest.mark.parametrize("case", CASES)
def test_attacks_stay_on_the_device_and_wait_before_their_loop_and_behind(case, looks):
    name, options = CASES[case]
    attack, options = getattr(A, name), dict(options)
    model = options.pop("model", network)()
    steps = {"steps": 2} if "steps" in inspect.signature(attack).parameters else {}
    with Watch():
        assert attack(model, images(), classes(), **steps, **options).is_meta
    assert len(looks) == 2 + BESIDES.get(name, 0)


def test_every_preset_is_tried():
    presets = {name for name, f in vars(A).items() if hasattr(f, "__signature__") and hasattr(f, "__wrapped__")}
    assert presets == set(PRESETS)


# --- attacks with a loop of their own --------------------------------------------------------------------------------


def recorded(g):
    """An attack by a gradient function."""
    return lambda x, y: al.attack(x, y, g, eps=0.1, steps=2)


OTHERS = {
    "a model alone": recorded(network()),
    "losses together": recorded(al.averaged([al.gradient(network(0)), al.gradient(network(1))], [1, 2])),
    "one after the other": recorded(al.cycled([al.gradient(network(0)), al.gradient(network(1))])),
    "NES": recorded(al.queries.nes(network(), pairs=2)),
    "LGV": lambda x, y: A.lgv([network(0), network(1)], x, y, steps=2),
    "ILA++": lambda x, y: al.layers.ila_plus_plus(network(), x, y, layer="layer2.0", steps=2, refine=2),
    "Carlini & Wagner": lambda x, y: al.carlini_wagner(network(), x, y, steps=2, searches=2),
    "L-BFGS": lambda x, y: al.lbfgs(network(), x, y, steps=2, searches=2, memory=2),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_attacks_stay_on_the_device_and_never_wait(name, looks):
    with Watch():
        assert OTHERS[name](images(), classes()).is_meta


# --- training --------------------------------------------------------------------------------------------------------

S, FAMILY = al.sam, al.sam_family
OPTIMIZERS = {
    "SGD": torch.optim.SGD,
    "SAM": S.SAM,
    "ASAM": partial(S.SAM, adaptive=True),
    "Random SAM": S.RandomSAM,
    "CR-SAM": S.CRSAM,
    "CR-SAM by logarithms": partial(S.CRSAM, form="log"),
    "LookSAM": partial(FAMILY.LookSAM, every=2),
    "SSAM": partial(FAMILY.SSAM, every=2),
    "GSAM": FAMILY.GSAM,
}


def trained(make, **options):
    """A closure and its optimizer, of a network in train mode."""
    model = al.models.create("resnet", dataset="shapes").train().to(META)
    return model, make(model.parameters(), lr=0.1, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_stay_on_the_device_and_never_wait(name):
    model, optimizer = trained(OPTIMIZERS[name], momentum=0.9)

    def closure():
        optimizer.zero_grad()
        loss = al.gradients.cross_entropy(model(images()), classes()).mean()
        loss.backward()
        return loss

    with Watch():
        for _ in range(3):
            assert optimizer.step(closure).is_meta


def test_esam_stays_on_the_device_and_never_waits():
    model, optimizer = trained(FAMILY.ESAM, momentum=0.9)

    def losses(keep):
        rows = slice(None) if keep is None else keep
        return al.gradients.cross_entropy(model(images()[rows]), classes()[rows])

    with Watch():
        for _ in range(2):
            assert optimizer.step(losses).is_meta


OBJECTIVES = [
    al.objectives.Classification(),
    al.objectives.NoisyClassification(),
    al.objectives.Adversarial(steps=2),
    al.objectives.LipschitzRegularized(),
    al.objectives.LipschitzRegularized(form="text", direction1="sign", batchnorm="eval"),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_objectives_stay_on_the_device_and_never_wait(objective, looks):
    model, _ = trained(torch.optim.SGD)
    with Watch():
        objective(model, images(), classes(), Draw(0, classes())).backward()


@pytest.mark.parametrize("augment", [al.augment.random_crop, al.augment.random_flip, al.augment.cutout])
def test_augmentations_stay_on_the_device_and_never_wait(augment):
    with Watch():
        assert augment(images().to(torch.uint8), Draw(0, classes())).is_meta


def test_the_memory_of_saf_stays_on_the_device():
    objective, model = al.objectives.SAF(start=0, back=1).begin(classes()), network()
    with Watch():
        for epoch in range(3):
            assert objective(model, images(), classes(), Draw(0, classes(), epoch)).is_meta


def parts(model):
    """A loss in two parts, as `curvature.mean_loss` yields them."""
    for _ in range(2):
        yield al.gradients.cross_entropy(model(images()), classes()).mean()


def test_derivatives_by_weights_stay_on_the_device():
    model = network()
    ws = al.curvature.weights(model)
    with Watch():
        loss = partial(parts, model)
        assert al.curvature.value(loss).is_meta
        assert all(g.is_meta for g in al.curvature.gradient(loss, ws))
        assert all(h.is_meta for h in al.curvature.hvp(loss, ws, [ws, ws])[1])


# --- defences --------------------------------------------------------------------------------------------------------

D = al.defenses
DEFENCES = [
    D.BitReduction(),
    D.RandomResizePad(draws=2),
    D.RandomizedSmoothing(n=3),
    D.RandomSelfEnsemble(n=2),
    D.TotalVariance(iterations=2),
    D.RandomizedDiscretization(colours=2, draws=2),
]


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda d: type(d).__name__)
def test_defences_stay_on_the_device_and_never_wait(defence):
    defended = defence(network())
    with Watch():
        assert torch.autograd.functional.vjp(lambda x: defended(x).sum(), images())[1].is_meta


# --- where the host is asked on purpose ------------------------------------------------------------------------------


class Unseeded:
    """A generator of the device meta, for which torch has none: numbers that are nowhere need none."""

    def manual_seed(self, seed):
        return None


def attacked(attack, **options):
    return partial(attack, network(), images(), classes(), **options)


def stepped(make):
    """One step of an optimizer."""
    model, optimizer = trained(make)

    def closure():
        loss = al.gradients.cross_entropy(model(images()), classes()).mean()
        loss.backward()
        return loss

    return partial(optimizer.step, closure)


def curved(measure):
    """A measure of curvature of a network."""
    return partial(measure, partial(parts, network()), al.curvature.weights(network()))


def objective(chosen):
    """The objective of one batch."""
    return partial(chosen, network(), images(), classes(), Draw(0, classes()))


def defended(defence, model):
    return partial(defence(model), images())


READ_BACKS = {
    # Once a call, behind its last step.
    "lipschitz.local_lipschitz": partial(al.lipschitz.local_lipschitz, network(), images(), steps=2),
    # Images that have what they need ask no more: which, decides the size of the next batch.
    "queries.Oracle.__call__": attacked(al.queries.nattack, steps=2, population=4),
    # A table of pairs costs more than the wait.
    "saliency.jsma": attacked(al.jsma),
    # Whether there is a second pass depends on the first.
    "sam_family.AESAM._passes": stepped(partial(FAMILY.AESAM, total=2)),
    # The network, the radius or the number of steps of a whole batch.
    "training.objectives.EnsembleAdversarial.__call__": objective(al.objectives.EnsembleAdversarial(("shapes/vgg",))),
    # Small matrices are taken apart on the host, and a trace may stop at its tolerance.
    "curvature._Lanczos.step": curved(al.curvature.top_eigenvalue),
    "curvature.hutchinson_trace": curved(partial(al.curvature.hutchinson_trace, deflate=0)),
    # A codec of the host.
    "defenses.transformations.JPEG.purified": defended(D.JPEG(), network()),
    # It copies its basis of 64 numbers at each call.
    "defenses.transformations.FeatureDistillation.purified": defended(D.FeatureDistillation(), network()),
    # The interval of the vote is scipy's.
    "defenses.transformations.RandomizedSmoothing.predict": partial(
        D.RandomizedSmoothing(n=3)(network()).predict, images()
    ),
    # Every image has its own sequence of operations.
    "training.augment.autoaugment": partial(al.augment.autoaugment, images().to(torch.uint8), Draw(0, classes())),
}
"""Where the device is waited for by the nature of the thing, each with a call that shows it. Whoever frees one of them
takes it out."""


@pytest.mark.parametrize("place", READ_BACKS)
def test_read_backs_that_are_known(place, looks, monkeypatch):
    monkeypatch.setattr(torch, "Generator", lambda device: Unseeded())
    with Watch(), pytest.raises((RuntimeError, AssertionError)) as raised:
        READ_BACKS[place]()
    frames = [entry for entry in raised.traceback if Path(al.__file__).parent in Path(entry.path).parents]
    module = frames[-1].frame.raw.f_globals["__name__"].removeprefix("advlib.")
    assert f"{module}.{frames[-1].frame.code.raw.co_qualname}" == place


# --- launches --------------------------------------------------------------------------------------------------------


class Free(torch.autograd.Function):
    """A network that costs nothing either way."""

    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return x.new_empty(len(x), 10)

    @staticmethod
    def backward(ctx, g):
        return g.new_empty(ctx.shape)


LAUNCHES = {
    "mi_fgsm": 20,
    "em_fgsm": 21,
    "L2": 43,
    "GNP": 291,
    "dim": 142,
    "tim": 29,
    "sim": 104,
    "re_fgsm": 1119,
    "composite": 723,
    "taig": 118,
    "vmi_fgsm": 286,
    "emi_fgsm": 143,
    "pgn": 313,
}
"""Operations of a step outside the network, each a launch on a GPU. Exact below 50 and to 2 % above, which is less than
one more operation a copy, and more than torch's own versions differ by: whoever adds one, or saves one, writes it here.
"""


@pytest.mark.parametrize("case", LAUNCHES)
def test_launches_of_a_step(case, looks):
    name, options = CASES[case]

    def launches(steps):
        with Watch() as watch:
            getattr(A, name)(Free.apply, images(), classes(), steps=steps, **options)
        return watch.launches

    found = launches(4) - launches(3)
    assert abs(found - LAUNCHES[case]) <= LAUNCHES[case] // 50, found
