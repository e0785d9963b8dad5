"""How an engine is named: in a call, in the environment, on the command line."""

import os

import pytest

from advlib.bench import chapters, engines, experiment
from advlib.press import cli


def test_a_name_may_bear_the_number_of_workers():
    assert engines.chosen("serial") == engines.Serial()
    assert engines.chosen("local") == engines.Local() and engines.chosen("local:3") == engines.Local(jobs=3)
    own = engines.Local(jobs=2)
    assert engines.chosen(own) is own


@pytest.mark.parametrize("name", ["serial:2", "local:", "local:x", "local:-1", "local:0", "threads", "", 3])
def test_other_names_are_refused(name):
    with pytest.raises((TypeError, ValueError), match="engine|jobs"):
        engines.chosen(name)


def test_another_cluster_than_the_one_in_use_is_refused(monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with engines.OnRay()._cluster(), engines.OnRay(address="auto")._cluster():
        pass
    with pytest.raises(ValueError, match="connected to a Ray already"), engines.OnRay(address="ray://a:1")._cluster():
        pass


def test_chapters_take_the_engine_of_the_environment(monkeypatch):
    made = [experiment.Experiment(None, {}, None, [8.0]).engine]
    monkeypatch.setenv(chapters.ENGINE, "local:2")
    made.append(experiment.Experiment(None, {}, None, [8.0]).engine)
    monkeypatch.setenv(chapters.ENGINE, "")
    made.append(experiment.Experiment(None, {}, None, [8.0]).engine)
    assert made == ["serial", "local:2", "serial"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--engine", "threads"), "--engine threads: expected serial, local or ray"),
        (("--engine", "local:0"), "--engine local:0: expected serial, local or ray"),
        (("--engine", "local:2", "--address", "auto"), "--address auto: only with --engine ray"),
        (("--address", "auto"), "--address auto: only with --engine ray"),
    ],
)
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_wrong_engine_is_refused_before_anything_runs(command, options, told, capsys, monkeypatch):
    monkeypatch.delenv(chapters.ENGINE, raising=False)
    assert cli.main([command, "00", *options]) == 2 and told in capsys.readouterr().err
    assert chapters.ENGINE not in os.environ
