"""The leaderboards: what is ranked together, what stands apart, and an attack of one's own, from file to row."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import needs_data

from advlib import attacks
from advlib.bench import candidate, claims, evaluation, leaderboard, results
from advlib.bench.outcomes import Outcome, Outcomes
from advlib.core import intervals
from advlib.core.published import TRAINED, UNDEFENDED
from advlib.files.paths import RESULTS, ROOT
from advlib.press import leaderboard_page

N = 200
BOARD = leaderboard.Board("a board", "f", "f", "laptop/cifar10", ("table_A4_1", "table_A4_2"), open_to=True)


@pytest.fixture
def write(tmp_path):
    """Write a table: shares of images that each attack fools, (attack, target) -> share, nested by strength."""

    def written(name, shares, n=N):
        path = tmp_path / "laptop" / "cifar10" / f"{name}.csv"
        kept, right = results.ResultTable(path, "A4.1", "laptop", "cifar10", "cpu", 0, {}), np.ones(n, dtype=bool)
        for attack in dict.fromkeys(attack for attack, _ in shares):
            cells, rows = {}, []
            for (_, target), share in ((key, v) for key, v in shares.items() if key[0] == attack):
                fooled = np.arange(n) < round(share * n)
                cells["f", attack, target, 4.0] = Outcome(fooled, right)
                low, high = intervals.wilson(int(fooled.sum()), n)
                rate = {"value": 100 * fooled.mean(), "n": n, "ci_low": low, "ci_high": high, "passes": 10.0}
                rows.append({"source": "f", "attack": attack, "target": target, "eps_255": 4.0, "metric": "asr"} | rate)
            kept.add(rows, Outcomes(np.arange(n), cells))
        return path

    return written


def test_rows_are_means_over_the_targets_that_all_tables_have_and_kinds_stand_apart(write, tmp_path):
    write("table_A4_1", {("MI-FGSM", t): s for t, s in {"f": 0.9, "g": 0.4, "h": 0.6, "v-pgd": 0.1}.items()})
    write("table_A4_2", {("MI-FGSM", "h"): 0.6, ("MI-FGSM", "v-pgd"): 0.1, ("X", "h"): 0.8, ("X", "v-pgd"): 0.1})
    rows = leaderboard.standing(BOARD, tmp_path).set_index(["attack", "kind"])
    assert rows.value[("MI-FGSM", UNDEFENDED)] == pytest.approx(60)  # neither f, its own source, nor g counts
    assert rows.points[("X", UNDEFENDED)] == pytest.approx(20) and rows.clear[("X", UNDEFENDED)]
    assert rows.points_low[("X", UNDEFENDED)] == pytest.approx(
        intervals.paired_difference(np.arange(N) < 160, np.arange(N) < 120)[1]
    )
    assert rows.value[("X", TRAINED)] == pytest.approx(10) and not rows.clear[("X", TRAINED)]
    assert list(rows.index) == [("X", UNDEFENDED), ("MI-FGSM", UNDEFENDED), ("MI-FGSM", TRAINED), ("X", TRAINED)]


def test_an_attack_of_a_table_without_the_baseline_is_compared_across_files(write, tmp_path):
    write("table_A4_1", {("MI-FGSM", "h"): 0.5})
    write("table_A4_2", {("X", "h"): 0.75})
    row = leaderboard.standing(BOARD, tmp_path).iloc[0]
    assert (row.attack, row.interval) == ("X", "paired") and row.points == pytest.approx(25)


def test_a_name_may_be_changed_or_left_out(write, tmp_path):
    write("table_A4_1", {("MI-FGSM", "h"): 0.5, ("sigma 1", "h"): 0.6, ("sigma 9", "h"): 0.7})
    board = replace(BOARD, names={"sigma 1": "NI-FGSM", "sigma 9": ""})
    assert list(leaderboard.standing(board, tmp_path).attack) == ["NI-FGSM", "MI-FGSM"]


def test_an_added_attack_is_ranked_if_it_has_all_targets(write, tmp_path):
    write("table_A4_1", {("MI-FGSM", "g"): 0.4, ("MI-FGSM", "h"): 0.6})
    added = write("added_mine", {("MI-FGSM", "g"): 0.4, ("MI-FGSM", "h"): 0.6, ("mine", "g"): 0.5, ("mine", "h"): 0.7})
    rows = leaderboard.standing(BOARD, tmp_path)
    assert list(rows.attack) == ["mine", "MI-FGSM"] and list(rows.added) == [True, False]
    assert rows.file[0] == "laptop/cifar10/added_mine.csv"
    added.unlink()
    added.with_suffix(".json").unlink()
    added.with_suffix(".outcomes.npz").unlink()
    write("added_mine", {("mine", "g"): 0.5})
    with pytest.raises(ValueError, match="added_mine.csv has no rows on h"):
        leaderboard.standing(BOARD, tmp_path)


def test_the_boards_say_what_their_chapters_say():
    """The same numbers as `claims.gains`, which chapter A4 shows, where the targets are the same."""
    (board, path) = leaderboard.BOARDS["smooth"], RESULTS / "laptop/cifar10/table_A4_6.csv"
    rows = leaderboard.standing(board)
    gains = claims.gains(results.mark_white_box(results.with_outcomes(path)), board.baseline)
    both = rows.merge(gains, on=["attack", "kind", "eps_255"], suffixes=("", "_chapter"))
    assert len(both) == len(rows) == len(gains) > 20
    assert np.allclose(both.value, both.value_chapter) and np.allclose(both.points, both.points_chapter)
    assert np.allclose(both.points_low, both.low_chapter) and (both.clear == both.clear_chapter).all()


def test_every_board_has_rows_of_one_denominator():
    for key, board in leaderboard.BOARDS.items():
        rows = leaderboard.standing(board)
        groups = rows.groupby(["kind", "eps_255"])
        assert len(rows) > 10 and (groups.images.nunique() == 1).all() and (groups.targets.nunique() == 1).all(), key
        assert not rows.duplicated(["attack", "kind", "eps_255"]).any()
        assert (rows.value.between(rows.low - 0.2, rows.high + 0.2)).all()


# --- an attack of one's own ------------------------------------------------------------------------------------------


def test_the_template_runs_as_it_is_copied_and_its_row_is_there(tmp_path):
    copy = tmp_path / "my_attack.py"
    shutil.copy(ROOT / "book" / "my_attack.py", copy)
    command = [sys.executable, str(copy), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file = candidate.file_of("mirrored MI-FGSM", "smoke", "shapes", tmp_path / "out")
    rows = results.read(file)
    assert set(rows.attack) == {"MI-FGSM", "mirrored MI-FGSM"} and set(rows.eps_255) == {4.0, 8.0}
    mine = rows[rows.attack == "mirrored MI-FGSM"]
    assert set(mine.passes) == {20.0} and {"vgg", "vgg-pgd", "JPEG"} <= set(mine.target)
    told = done.stdout.partition("mirrored MI-FGSM: shapes, smoke scale")[2].splitlines()
    assert "  undefended, 4/255: " in told[3] and "20 passes" in told[3] and told[-1].strip() == str(file)


def test_an_attack_may_not_take_the_baselines_name(tmp_path):
    with pytest.raises(ValueError, match="choose another"):
        candidate.run("MI-FGSM", attacks.mi_fgsm, out=tmp_path)


@needs_data("cifar10")
def test_the_images_and_networks_are_those_of_the_committed_board():
    """MI-FGSM fools, of the first images of the board, the ones that the committed table says."""
    images = candidate.images("laptop", "cifar10")
    kept = results.outcomes(RESULTS / "laptop/cifar10/table_A4_1.csv")
    assert images.index.tolist() == kept.index.tolist()
    first, nets = images[:40], candidate.networks("cifar10")
    adv = attacks.mi_fgsm(nets["resnet"], first.x, first.y, eps=4 / 255, seed=0, index=first.index)
    fooled = (nets["vgg"](adv).argmax(1) != first.y).numpy()
    theirs = kept.of("resnet", "MI-FGSM", "vgg", 4.0).fooled[:40]
    assert (evaluation.predictions(nets["vgg"], first) == first.y).all()
    assert (fooled != theirs).sum() <= 2  # folded BatchNorm rounds otherwise


def test_the_page_shows_every_attack_with_a_link_to_its_rows():
    boards = leaderboard.standings()
    page = leaderboard_page.markdown(boards)
    for rows in boards.values():
        for row in rows.itertuples():
            assert f'<th scope="row">{row.attack}</th><td data-value="{row.value:g}">{row.value:.1f}</td>' in page
        assert all((RESULTS / file).is_file() and f'href="csv/{file}"' in page for file in set(rows.file))
    assert "added_" not in page
