"""Figures show every number of the results, legibly and without global state."""

from itertools import combinations, pairwise

import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from laid.evaluation.accuracy_figures import accuracy_figure, depth_figure, save_png
from laid.evaluation.records import Record
from laid.evaluation.scoring import needle_depth
from laid.evaluation.summary import summarise

SIZES = (1, 2, 5, 10, 20, 50, 100, 150)


def model(name="student", sizes=SIZES, right=0.8, n=20):
    records = [
        Record(
            f"{s}-{i}",
            s,
            "no",
            "No" if i < right * n else "Yes",
            i < right * n,
            True,
            needle_depth([i % s], s),
            9,
            "single",
            False,
        )
        for s in sizes
        for i in range(n)
    ]
    return summarise(records, name=name, identity={}, command="", seed=None).summary


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure


def curves(figure):
    return list(figure.axes[0].containers)


def test_each_model_is_a_line_through_its_accuracies():
    results = [model("base", right=0.6), model("laid", right=0.9)]
    lines = [curve.lines[0] for curve in curves(accuracy_figure(results))]
    for line, result in zip(lines, results, strict=True):
        accuracies = [cell.accuracy for cell in result.by_size.values()]
        assert list(line.get_ydata()) == accuracies
        # Beside its size, nearer to it than to any other.
        for x, size in zip(line.get_xdata(), SIZES, strict=True):
            assert min(SIZES, key=lambda other: abs(x - other)) == size


def test_intervals_are_drawn_from_bound_to_bound_and_none_is_cut():
    for right in (0.0, 0.5, 1.0):
        figure = accuracy_figure([model(right=right)])
        low, high = figure.axes[0].get_ylim()
        (bars,) = curves(figure)[0].lines[2]
        intervals = [cell.interval for cell in model(right=right).by_size.values()]
        for segment, (lower, upper) in zip(bars.get_segments(), intervals, strict=True):
            assert segment[:, 1] == pytest.approx([lower, upper])
            assert low <= lower <= upper <= high


def test_the_axis_always_shows_chance():
    for right in (0.0, 1.0):
        axes = accuracy_figure([model(right=right)]).axes[0]
        dashed = [line for line in axes.lines if list(line.get_ydata()) == [0.5, 0.5]]
        assert [line.get_linestyle() for line in dashed] == ["--"]
        assert axes.get_ylim()[0] < 0.5


def test_the_legend_names_every_model_with_its_n():
    figure = accuracy_figure([model("base", n=20), model("laid", n=8)])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["base (n = 20 a size)", "laid (n = 8 a size)"]


@pytest.mark.parametrize("sizes", [SIZES, tuple(range(1, 31)), (7,), (99, 100)])
def test_size_labels_never_overlap_and_the_largest_is_always_there(sizes):
    axes = drawn(accuracy_figure([model(sizes=sizes)])).axes[0]
    assert list(axes.get_xticks()) == list(sizes)
    labels = [label for label in axes.get_xticklabels() if label.get_text()]
    assert labels[-1].get_text() == str(sizes[-1])
    boxes = [label.get_window_extent() for label in labels]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_models_do_not_hide_one_another():
    results = [model(f"model {i}") for i in range(6)]
    lines = [curve.lines[0] for curve in curves(accuracy_figure(results))]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 6
    for one, other in combinations(lines, 2):
        assert not set(one.get_xdata()) & set(other.get_xdata())


def test_models_tested_at_different_sizes_share_one_axis():
    figure = accuracy_figure([model("a", sizes=(1, 10)), model("b", sizes=(5, 100))])
    assert list(figure.axes[0].get_xticks()) == [1, 5, 10, 100]
    assert [len(curve.lines[0].get_xdata()) for curve in curves(figure)] == [2, 2]


def test_each_cell_of_the_heat_map_says_its_accuracy_and_n():
    result = model(sizes=(1, 2, 10))
    axes = depth_figure([result]).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "10"]  # 1 has no depth
    assert axes.get_yticklabels()[0].get_text() == "0–20%"
    written = {}
    for text in axes.texts:
        written.setdefault(text.get_position(), []).append(text.get_text())
    expected = {}
    for x, size in enumerate((2, 10)):
        for y, cell in enumerate(result.by_size[size].needle_depth):
            if cell.n:
                expected[x, y] = [f"{100 * cell.accuracy:.0f}", f"n {cell.n}"]
    assert written == expected
    assert len(expected) == 2 + 5  # two images have two depths


def test_empty_cells_are_grey_and_unlike_the_colour_of_chance():
    axes = drawn(depth_figure([model(sizes=(2,))])).axes[0]
    image = axes.images[0]
    assert image.get_array().mask.ravel().tolist() == [False, True, True, True, False]
    grey = axes.get_facecolor()
    assert len(set(grey[:3])) == 1
    assert grey[0] < 0.9
    assert max(image.cmap(0.5)[:3]) > 0.95  # chance is nearly white


def test_all_heat_maps_have_one_scale_and_no_stray_panels():
    figure = depth_figure([model("a", right=0.2), model("b"), model("c", sizes=(5, 50))])
    panels = [axes for axes in figure.axes if axes.get_visible() and axes.images]
    assert [axes.get_title() for axes in panels] == ["a", "b", "c"]
    assert {axes.images[0].get_clim() for axes in panels} == {(0, 1)}


def test_a_test_of_single_images_still_gives_figures(tmp_path):
    for draw in (accuracy_figure, depth_figure):
        save_png(draw([model(sizes=(1,))]), tmp_path / "one.png")
        assert imread(tmp_path / "one.png").std() > 0


def test_a_png_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "figures" / "accuracy.png"
    save_png(accuracy_figure([model()]), path)
    before = path.read_bytes()
    assert imread(path).ndim == 3
    broken = accuracy_figure([model()])
    broken.axes[0].set_title("$\\nosuchcommand$")  # fails while it is being drawn
    with pytest.raises(ValueError, match="nosuchcommand"):
        save_png(broken, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["accuracy.png"]


def test_drawing_leaves_no_figure_in_pyplot(tmp_path):
    for draw in (accuracy_figure, depth_figure):
        save_png(draw([model()]), tmp_path / "figure.png")
    assert pyplot.get_fignums() == []
