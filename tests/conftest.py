"""Small things that many tests share: a tiny network, images on the 8-bit grid, operations counted, a skip for data
that is not there."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from advlib.core.surrogate import Normalized
from advlib.files.paths import data_roots

if TYPE_CHECKING:
    from advlib.bench.speed.cases import Bench


def needs_data(*parts: str) -> pytest.MarkDecorator:
    """Skip unless every file or folder of `parts` is in $ADVLIB_DATA or data/cache; pytest -ra prints the reason."""
    missing = [p for p in parts if not any((root / p).exists() for root in data_roots())]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not in $ADVLIB_DATA or data/cache")


SLOW = set((Path(__file__).parent / "slow.txt").read_text(encoding="utf-8").split())
"""The tests that `make quick` leaves out, as file::function; a full run prints which take longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if f"{item.path.name}::{getattr(item, 'originalname', item.name)}" in SLOW:
            item.add_marker(pytest.mark.slow)


CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or any(find_spec(name) is None for name in ("playwright", "axe_core_python")),
    reason="no chromium (Debian's package), playwright or axe-core-python: pip install 'advlib[browser]'",
)


@pytest.fixture(scope="module")
def browser():
    """A headless chromium, for tests marked `needs_browser`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        launched = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def committed_results() -> str:
    """The page of results of what is committed, which takes ten seconds."""
    from advlib.press import results_page

    return results_page.markdown()


def tiny_model(seed: int = 0, classes: int = 10, scale: float = 4.0) -> Normalized:
    """conv, BatchNorm with statistics of its own, ReLU, pooling, linear; eval mode; for images of 8 pixels and more."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(128, classes),
        )
        net[1].running_mean.normal_(0, 0.1)
        net[1].running_var.uniform_(0.5, 2)
        net[5].weight.data.mul_(scale)
    return Normalized(net, (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)).eval()


def grid_images(n: int = 4, h: int = 8, w: int = 8, seed: int = 0) -> torch.Tensor:
    """(n, 3, h, w) on multiples of 1/255, black and white pixels among them."""
    levels = torch.randint(0, 256, (n, 3, h, w), generator=torch.Generator().manual_seed(seed))
    levels[:, :, 0, 0], levels[:, :, 0, 1] = 0, 255
    return levels / 255


class Counted(TorchDispatchMode):
    """How often each operation of torch ran inside."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def model() -> Normalized:
    return tiny_model()


@pytest.fixture
def x() -> torch.Tensor:
    return grid_images()


@pytest.fixture
def y(model: Normalized, x: torch.Tensor) -> torch.Tensor:
    """The model's own predictions: every attack starts from a correct image."""
    with torch.no_grad():
        return model(x).argmax(1)


class Clock:
    """Time that passes when somebody works."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, []

    def work(self, name: str, seconds: float, gives: object = None) -> Callable[..., object]:
        def done(*args: object, **options: object) -> object:
            self.now += seconds
            self.log.append(name)
            return gives

        return done

    def bench(self, budget: float = 1e9, **options: object) -> Bench:
        """One on the processor that goes by this clock."""
        from advlib.bench.speed.cases import Bench  # here: it loads what most tests need not

        options = {"tiny": False, **options}
        left = lambda: budget - self.now  # noqa: E731
        return Bench(torch.device("cpu"), dataset="shapes", left=left, clock=lambda: self.now, **options)


@pytest.fixture
def clock() -> Clock:
    return Clock()
