"""`deterministic` by what it sets, and that everything is handed back as it was."""

import os

import pytest
import torch
from torch.backends import cudnn

import advlib as al


def settings():
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return strict, warn, cudnn.deterministic, cudnn.benchmark, os.environ.get("CUBLAS_WORKSPACE_CONFIG")


@pytest.fixture(params=[(False, False, False, True, None), (True, True, False, False, ":16:8")], ids=["torch's", "own"])
def before(request, monkeypatch):
    """Settings of the caller, and torch's own again behind the test."""
    strict, warn, fixed, timed, workspace = request.param
    monkeypatch.setattr(cudnn, "deterministic", fixed)
    monkeypatch.setattr(cudnn, "benchmark", timed)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    torch.use_deterministic_algorithms(strict, warn_only=warn)
    yield request.param
    torch.use_deterministic_algorithms(False)


def test_settings_are_those_of_the_name_meanwhile(before):
    with al.deterministic():
        assert settings() == (True, False, True, False, before[-1] or ":4096:8")
    assert settings() == before


def test_they_come_back_after_an_error_and_level_by_level(before):
    with pytest.raises(ZeroDivisionError), al.deterministic():
        with al.deterministic():
            pass
        assert settings()[:4] == (True, False, True, False)
        raise ZeroDivisionError
    assert settings() == before


def test_an_operation_that_cannot_repeat_itself_raises():
    """On a CPU there is one such: a put that adds nothing up, of places that are named twice."""
    x, place = torch.zeros(3), torch.tensor([1, 1])
    x.put_(place, torch.ones(2))
    with al.deterministic(), pytest.raises(RuntimeError, match="deterministic"):
        x.put_(place, torch.ones(2))


def test_an_attack_is_what_it_is(model, x, y):
    with al.deterministic():
        inside = al.attacks.dim(model, x, y, steps=2)
    assert torch.equal(inside, al.attacks.dim(model, x, y, steps=2))
