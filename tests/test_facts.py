"""Facts about values: read together, in their order, exactly as they are."""

import pytest
import torch
from conftest import tiny_model
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import advlib as al
from advlib import attacks
from advlib.core import checks, facts


class Waits(TorchFunctionMode):
    """Counts how often the values of a tensor come to the host, by the functions of Python that bring them."""

    BRINGING = (torch.Tensor.cpu, torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__bool__)

    def __init__(self):
        super().__init__()
        self.copies = self.others = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.BRINGING:
            self.copies += function is torch.Tensor.cpu
            self.others += function is not torch.Tensor.cpu
        return function(*args, **(kwargs or {}))


class Scalars(TorchDispatchMode):
    """Counts the numbers that are read one by one, whoever reads them."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


EXACT = [
    torch.tensor([True, False]),
    torch.tensor(2**62 + 1),
    torch.tensor([[0.1, float("nan")], [-0.0, 1e-300]], dtype=torch.float64).t(),
    torch.tensor([1 / 3], dtype=torch.bfloat16),
    torch.zeros(2, 0),
    torch.arange(3, dtype=torch.int32),
]


def test_values_of_all_types_come_in_one_copy_and_exactly():
    seen = []
    with Waits() as waits:
        facts.look([facts.Fact(str(i), values, seen.append) for i, values in enumerate(EXACT)])
    assert waits.copies == 1 and waits.others == 0
    for there, here in zip(EXACT, seen, strict=True):
        assert (here.dtype, here.shape) == (there.dtype, there.shape)
        assert bytes(here.flatten().view(torch.uint8)) == bytes(there.flatten().view(torch.uint8))


def test_without_facts_nothing_is_waited_for():
    with Waits() as waits:
        facts.look([])
        with facts.together():
            pass
    assert waits.copies == waits.others == 0


def refuses(number):
    """A fact that is not so, found out when its value is looked at."""

    def judge(values):
        raise ValueError(f"number {number}")

    facts.state("x", torch.tensor(number), judge)


def test_alone_a_fact_is_looked_at_at_once_and_together_at_the_end():
    done = []
    with pytest.raises(ValueError, match="number 1"):
        refuses(1)
    with pytest.raises(ValueError, match="number 1"), facts.together():
        with facts.together():
            refuses(1)
        done.append("inner")
        refuses(2)
        done.append("outer")
    assert done == ["inner", "outer"]


def test_an_error_in_between_comes_behind_the_facts_before_it():
    with pytest.raises(ValueError, match="number 1"), facts.together():
        refuses(1)
        raise TypeError("number 2")
    with pytest.raises(TypeError, match="number 0"), facts.together():
        facts.state("x", torch.tensor(1), lambda values: None)
        raise TypeError("number 0")


def test_whoever_is_to_read_gets_the_facts_and_only_meanwhile():
    kept = []
    with facts.read_by(kept.extend):
        refuses(1)
        with facts.together():
            refuses(2)
    assert [fact.values.item() for fact in kept] == [1, 2]
    with pytest.raises(ValueError, match="number 3"):
        refuses(3)


# --- attacks ---------------------------------------------------------------------------------------------------------

TARGET = torch.tensor([5, 6, 7, 8])


@pytest.mark.parametrize("options", [{}, {"target": TARGET}, {"norm": "l2", "start": "every"}], ids=str)
def test_an_attack_waits_once_before_its_loop_and_once_behind(options, x, y):
    f = al.ensemble([tiny_model(0), tiny_model(1)])
    looks = []

    def look(found):
        looks.append([fact.name for fact in found])
        with torch.utils._python_dispatch._disable_current_modes():
            facts.look(found)

    for steps in (1, 3):
        looks.clear()
        with Scalars() as scalars, facts.read_by(look):
            attacks.mi_fgsm(f, x, y, steps=steps, **options)
        target = ["target"] * bool(options.get("target") is not None)
        assert looks == [["x", "y", *target, "model", "y", "target"], ["model"]]
        assert scalars.count == 0


def test_networks_are_looked_at_together(x, y):
    looks = []
    with facts.read_by(looks.append):
        checks.outputs([tiny_model(), tiny_model(1)], x, y=y)
    assert [[fact.name for fact in found] for found in looks] == [["model", "y", "model", "y"]]


OTHERS = {
    "carlini_wagner": lambda f, x, y: al.carlini_wagner(f, x, y, steps=2, searches=1),
    "lbfgs": lambda f, x, y: al.lbfgs(f, x, y, steps=2, searches=1),
    "averaged": lambda f, x, y: al.attack(x, y, al.averaged([al.gradient(f), al.gradient(tiny_model(3))]), eps=0.1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_so_do_attacks_with_a_loop_of_their_own(name, x, y):
    looks = []
    with facts.read_by(looks.append):
        OTHERS[name](tiny_model(), x, y)
    assert len(looks) == 2


# --- what is said first ----------------------------------------------------------------------------------------------


def of_table(x):
    """A network that looks colours up in a table, which has none outside [0, 1]."""
    return torch.zeros(256)[(255 * x).long()].flatten(1) @ torch.zeros(x[0].numel(), 10)


def picky(x):
    """One that refuses them."""
    assert x.min() >= 0 and x.max() <= 1
    return tiny_model()(x)


SPOILED = {
    "above 1": lambda x: x + 1,
    "NaN": lambda x: x * float("nan"),
    "infinite": lambda x: x / 0,
    "one of the last": lambda x: torch.cat([x[:-1], x[-1:] - 5]),
}


@pytest.mark.parametrize("model", [of_table, picky])
@pytest.mark.parametrize("way", SPOILED)
def test_a_model_never_sees_images_that_are_none(model, way, x, y):
    with pytest.raises(ValueError, match="^x: ") as raised:
        attacks.fgsm(model, SPOILED[way](x), y)
    assert raised.value.__context__ is None


def test_what_stood_first_is_said_first(x, y):
    bad, wrong, nan = x + 1, y + 20, lambda x: tiny_model()(x) * float("nan")
    cases = [
        ((bad, y[:1]), {}, "x: expected values"),
        ((x[:, 0], wrong), {}, "x: expected shape"),
        ((bad, wrong), {}, "x: expected values"),
        ((x, -wrong), {"eps": 9}, "y: class -28 is out of range"),
        ((x, wrong), {"eps": 9}, "eps=9"),
        ((x, wrong), {"target": y[:1]}, "target: expected shape"),
        ((x, wrong), {"momentum": 3}, "momentum: expected a rule"),
        ((x, wrong), {}, "y: class 28 is out of range for 10 logits"),
        ((x, y), {"target": wrong}, "target: class 28"),
    ]
    for images, options, message in cases:
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            al.attack(*images, tiny_model(), **{"eps": 0.1, **options})
    with pytest.raises(ValueError, match="^model: its logits are NaN"):
        al.attack(x, wrong, nan, eps=0.1)


def test_what_a_second_model_raises_comes_behind_the_logits_of_the_first(x, y):
    def raises(x):
        raise RuntimeError("no")

    first = al.gradient(lambda x: tiny_model()(x) * float("nan"))
    with pytest.raises(ValueError, match="^model: its logits are NaN"):
        al.attack(x, y, al.averaged([first, al.gradient(raises)]), eps=0.1)


def test_the_warning_is_that_of_the_line_that_attacks(x, y):
    with pytest.warns(RuntimeWarning, match="exactly 0") as caught:
        al.attack(x, y, lambda x: tiny_model()(x) * 0, eps=0.1)
    assert caught[0].filename == __file__
