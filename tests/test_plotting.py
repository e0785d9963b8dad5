"""The figures: they draw what they are given, and the same figure is the same file."""

import io

import numpy as np
import pandas as pd
import pytest
import torch

from advlib.bench import plotting
from advlib.bench.chapters import Run


def test_the_same_figure_is_the_same_file(tmp_path):
    lines = {"panel": {"a": ([0, 1], [10.0, 20.0])}}
    run = Run("02", tmp_path, "smoke", "shapes")
    first = plotting.save(plotting.curves(lines, "x", "y (%)"), "one", run).read_bytes()
    second = plotting.save(plotting.curves(lines, "x", "y (%)"), "two", run).read_bytes()
    assert first == second and first.startswith(b"<?xml")
    assert sorted(p.name for p in (tmp_path / "figures" / "02").iterdir()) == ["one.svg", "two.svg"]


def test_heatmap_writes_every_number_and_frames_the_white_box():
    matrix = pd.DataFrame([[100.0, 7.0], [8.0, 99.0]], index=["f", "h"], columns=["f", "h"])
    ax = plotting.heatmap(matrix).axes[0]
    assert [t.get_text() for t in ax.texts] == ["100", "7", "8", "99"]
    assert len(ax.patches) == 2


def test_gallery_has_a_row_for_each_name():
    figure = plotting.gallery({"clean": torch.rand(3, 3, 4, 4), "adv": torch.rand(2, 3, 4, 4)}, ["a", "b", "c"])
    assert [ax.get_ylabel() for ax in figure.axes[::3]] == ["clean", "adv"]
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(("second", "legends"), [({"a": ([1], [2])}, [1, 0, 0]), ({"b": ([1], [2])}, [0, 1, 1])])
def test_panels_with_other_lines_have_legends_of_their_own(second, legends):
    figure = plotting.curves({"p": {"a": ([1], [2])}, "q": second}, "x", "y")
    assert [len(figure.legends), *(int(ax.get_legend() is not None) for ax in figure.axes)] == legends


def test_error_bars_reach_the_interval():
    figure = plotting.curves({"p": {"a": ([1.0], [50.0])}}, "x", "y", {"p": {"a": ([40.0], [65.0])}})
    (bar,) = figure.axes[0].containers
    segment = bar.lines[2][0].get_segments()[0]
    assert segment[:, 1].tolist() == pytest.approx([40.0, 65.0])


def test_surfaces_share_one_scale():
    grid = np.linspace(-1, 1, 3)
    figure = plotting.surface(grid, grid, {"f": np.ones((3, 3)), "h": np.full((3, 3), 5.0)}, "u", "v", "loss")
    levels = [ax.collections[0].levels for ax in figure.axes[:2]]
    assert np.array_equal(*levels) and levels[0].max() >= 5.0


def test_looks_stand_where_gradients_are_read_and_steps_begin_at_the_iterate():
    found = {"here": ([0.6, 0.4], [2.0, 0.0]), "ahead": ([0.9, 0.3], [0.0, 1.0])}
    figure = plotting.look_ahead(lambda x: x[..., 0] + 2 * x[..., 1], found, {"step": (0.1, -0.1)}, (0.5, 0.5), 0.3)
    (ax,) = figure.axes
    marks = {
        line.get_label(): [*line.get_xdata(), *line.get_ydata()] for line in ax.lines if line.get_marker() != "None"
    }
    assert marks == {"here": [0.6, 0.4], "ahead": [0.9, 0.3]}
    arrows = [[*text.xyann, *text.xy] for text in ax.texts]  # from, to
    assert arrows[0] == pytest.approx([0.6, 0.4, 0.6 + 0.12 * 0.3 * 2, 0.4])  # up the gradient
    assert arrows[1] == pytest.approx([0.9, 0.3, 0.9, 0.3 + 0.12 * 0.3])
    assert arrows[2] == pytest.approx([0.6, 0.4, 0.7, 0.3])  # the step itself
    (ball,) = ax.patches
    assert [*ball.get_xy(), ball.get_width(), ball.get_height()] == pytest.approx([0.2, 0.2, 0.6, 0.6])
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == ["the ball", "here", "ahead", "gradient read there", "step"]


def test_pareto_front_is_what_nothing_cheaper_reaches():
    points = {"a": (1, 10), "b": (2, 30), "c": (2, 20), "d": (4, 30), "e": (8, 31)}
    assert plotting.pareto(points) == ["a", "b", "e"] and plotting.pareto({}) == []


def test_front_names_the_points_of_the_front():
    points = {"cheap": (1.0, 10.0), "dear": (4.0, 30.0), "worse": (4.0, 20.0)}
    bands = {name: (y - 1, y + 1) for name, (_, y) in points.items()}
    (ax,) = plotting.front({"title": points}, {"title": bands}, "passes", "success").axes
    assert {t.get_text() for t in ax.texts} == {"cheap", "dear"} and ax.get_xscale() == "log"
    three = dict.fromkeys("abc", points)
    axes = plotting.front(three, dict.fromkeys("abc", bands), "passes", "success").axes
    assert [ax.get_title() for ax in axes if ax.axison] == list("abc") and len(axes) == 4


def test_many_costs_are_labelled_by_powers_of_ten():
    many = {str(cost): (cost, 50.0 + cost / 10) for cost in (1, 2, 5, 10, 11, 20, 50, 100, 200)}
    (ax,) = plotting.front({"t": many}, {"t": dict.fromkeys(many, (40.0, 90.0))}, "passes", "success").axes
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "10", "100"]


def test_tree_has_its_branches_from_top_to_bottom_and_all_its_leaves():
    ax = plotting.tree("all of the attacks here", {"one": ["a", "b"], "two": ["c"], "three": []}).axes[0]
    written = {t.get_text(): t.get_position()[1] for t in ax.texts}
    assert written["one"] > written["two"] > written["three"] and written["a  ·  b"] == written["one"]
    assert written["all of the attacks\nhere"] == written["two"] and "c" in written and len(ax.lines) == 3


def test_panels_stand_two_in_a_row_each_with_its_axis():
    lines = {"a": ([0, 1], [1.0, 2.0])}
    axes = plotting.curves(dict.fromkeys("pqr", lines), "x", ["u", "v", "w"], sharey=False).axes
    assert [ax.get_ylabel() for ax in axes] == ["u", "v", "w", ""] and [ax.axison for ax in axes] == [True] * 3 + [
        False
    ]
    places = [ax.get_subplotspec() for ax in axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    axes = plotting.curves(dict.fromkeys("pqr", lines), "x", "y").axes
    assert [ax.get_ylabel() for ax in axes] == ["y", "", "y", ""] and [ax.get_xlabel() for ax in axes[:3]] == ["x"] * 3
    grid = np.linspace(-1, 1, 3)
    axes = plotting.surface(grid, grid, dict.fromkeys("pqrs", np.ones((3, 3))), "u", "v", "loss").axes
    assert [ax.get_title() for ax in axes[:4]] == list("pqrs") and axes[4].get_ylabel() == "loss"


def test_points_are_marks_without_a_line():
    first, second = plotting.points({"p": {"a": ([1, 2], [3, 4])}, "q": {"a": ([5, 6], [3, 4])}}, ["u", "v"], "y").axes
    assert first.lines[0].get_xydata().tolist() == [[1, 3], [2, 4]] and first.lines[0].get_linestyle() == "None"
    assert second.lines[0].get_xdata().tolist() == [5, 6] and (first.get_xlabel(), second.get_xlabel()) == ("u", "v")


def test_readings_point_down_their_gradients_from_where_they_are_read():
    def loss(w):
        return (4 * w[0] ** 2 + w[1] ** 2) / 2

    read = {"w": ([0.2, 0.6], [0.8, 0.6]), "uphill": ([0.6, 0.9], [2.4, 0.9])}
    (ax,) = plotting.readings(loss, {"two": (read, [2.4, 0.9])}, shown=0.1).axes
    arrows = [t for t in ax.texts if not t.get_text()]
    assert [list(t.xyann) for t in arrows] == [[0.2, 0.6], [0.6, 0.9], [0.2, 0.6]]
    tips = np.array([t.xy for t in arrows])
    assert tips == pytest.approx(np.array([[0.12, 0.54], [0.36, 0.81], [-0.04, 0.51]]))
    assert [t.get_text() for t in ax.texts if t.get_text()] == ["w", "uphill"]


def test_arrows_of_a_diagram_meet_its_boxes():
    figure = plotting.diagram({"a": (0, 0), "a wider box": (2, 1)}, [("a", "a wider box")])
    figure.savefig(io.BytesIO())  # lays it out
    (ax,) = figure.axes
    (arrow,) = [t.arrow_patch for t in ax.texts if not t.get_text()]
    boxes = [t.get_bbox_patch().get_window_extent() for t in ax.texts if t.get_text()]
    path = arrow.get_path()
    drawn = arrow.get_transform().transform(path.vertices[path.codes != path.CLOSEPOLY])
    ends = drawn[[drawn[:, 0].argmin(), drawn[:, 0].argmax()]]
    for box, (x, y) in zip(boxes, ends, strict=True):
        assert box.padded(2).contains(x, y) and not box.padded(-2).contains(x, y)  # pixels


def test_the_last_panel_of_each_column_has_numbers_below():
    one = {"ours": {"a": (1.0, 0.0, 2.0)}}
    axes = plotting.forest(dict.fromkeys("pqr", one), ["a"], "points").axes
    assert [ax.xaxis.get_tick_params()["labelbottom"] for ax in axes[:3]] == [False, True, True]


def test_forest_has_each_run_beside_the_others_in_its_rows():
    panels = {
        "p": {"print": {"a": (10.0, 8.0, 13.0)}, "ours": {"a": (1.0, 0.0, 2.0), "b": (-3.0, -4.0, -1.0)}},
        "q": {"ours": {"b": (2.0, 1.0, 3.0)}},
    }
    figure = plotting.forest(panels, ["a", "b"], "points")
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"] and first.yaxis_inverted()
    of_print, ours = first.containers
    assert of_print.lines[0].get_xydata() == pytest.approx(np.array([[10.0, -0.15]]))
    assert ours.lines[0].get_xydata() == pytest.approx(np.array([[1.0, 0.15], [-3.0, 1.15]]))
    assert [s[:, 0].tolist() for s in ours.lines[2][0].get_segments()] == [[0.0, 2.0], [-4.0, -1.0]]
    assert [list(run.lines[0].get_xdata()) for run in second.containers] == [[], [2.0]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["print", "ours"]
