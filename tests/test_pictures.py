"""Proves that the pictures for people are there, are PNGs, and show the palette's colours and the errors where they are."""

import gc

import numpy as np
import pytest
from conftest import COLOURS, NAMES, names
from matplotlib.figure import Figure
from PIL import Image

import nets
from tools.base.errors import DiskFullError
from tools.labels import pictures
from tools.labels.palette import Palette
from tools.record import plots

ISPRS = Palette(NAMES, COLOURS)
TRUTH = np.array([[0, 1, 2], [3, 6, 5]], np.uint8)
FOUND = np.array([[0, 2, 2], [3, 1, 0]], np.uint8)


def png(path):
    """The pixels (h x w x 3) of a picture that must be a PNG."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_errors_are_red_right_labels_white_and_unscored_pixels_grey():
    picture = pictures.error_map(TRUTH, FOUND, ISPRS)
    white, red, grey = [255, 255, 255], [222, 45, 38], [160, 160, 160]
    assert picture.tolist() == [[white, red, white], [white, grey, red]]


@pytest.mark.parametrize("truth", [TRUTH, None])
def test_a_comparison_shows_the_map_in_the_palettes_colours(tmp_path, truth):
    image = np.zeros((3, 2, 3), np.uint8)
    pictures.comparison(tmp_path / "a.png", image, truth, np.full((2, 3), 4, np.uint8), ISPRS, "tile 1")
    shown = png(tmp_path / "a.png")
    yellow = (shown == COLOURS[4]).all(-1).sum()
    assert yellow > 0.1 * shown.shape[0] * shown.shape[1]  # of the prediction; the legend alone is far less
    assert ((shown == (222, 45, 38)).all(-1).sum() > 1000) == (truth is not None)
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("shape", [(300, 1), (1, 300)])
def test_a_tile_of_one_row_or_column_makes_no_huge_picture(tmp_path, shape):
    pictures.comparison(tmp_path / "a.png", np.zeros((3, *shape), np.uint8), None, np.zeros(shape, np.uint8), ISPRS, "tile 1")
    assert max(png(tmp_path / "a.png").shape) < 5000


def test_bytes_are_shown_as_they_are():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 6)).astype(np.uint8)
    assert np.array_equal(pictures.as_picture(image), image[:3].transpose(1, 2, 0))
    assert np.array_equal(pictures.as_picture(image[:1])[..., 1], image[0])
    assert np.array_equal(pictures.as_picture(image[:2])[..., 2], image[0])


def test_other_numbers_are_stretched_and_missing_ones_do_no_harm():
    heights = np.linspace(250, 300, 100, dtype=np.float32).reshape(1, 10, 10)
    heights[0, 0, 0] = np.nan
    shown = pictures.as_picture(heights)
    assert shown.dtype == np.uint8
    assert (shown.min(), shown.max()) == (0, 255)
    assert (np.diff(shown[1:, 0, 0].astype(int)) >= 0).all()
    flat = pictures.as_picture(np.full((1, 4, 4), 7.0, np.float32))
    assert flat.shape == (4, 4, 3)


def test_an_image_without_any_number_is_shown_too():
    assert pictures.as_picture(np.full((1, 4, 4), np.nan, np.float32)).shape == (4, 4, 3)


def test_a_running_mean_by_hand():
    np.testing.assert_allclose(plots.running_mean([1, 2, 3, 4], 2), [1, 1.5, 2.5, 3.5])
    np.testing.assert_allclose(plots.running_mean([5], 3), [5])


@pytest.mark.parametrize("losses", [[1.5], [0.0, 0.0], list(np.linspace(2, 0.1, 300))])
@pytest.mark.parametrize("scores", [[], [(None, None)], [(0.5, 0.3), (None, 0.2)]])
def test_the_loss_plot_is_drawn_from_the_first_iteration_on(tmp_path, losses, scores):
    validation = [{"iteration": 1, "loss": loss, "mean_iou_without_ignored": iou} for loss, iou in scores]
    orange = []
    for points in (validation, []):
        plots.loss_plot(tmp_path / "loss.png", losses, [], points, "a net on a town")
        assert png(tmp_path / "loss.png").std() > 1
        orange.append((png(tmp_path / "loss.png") == (0xD9, 0x48, 0x01)).all(-1).sum())
    assert (orange[0] > orange[1] + 50) == any(iou for _, iou in scores)  # points beside those in the legends


def test_cross_entropy_has_an_axis_of_its_own_where_another_loss_is_trained(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, *_, **__: figures.append(figure))
    points = [{"iteration": i, "loss": 2.0, "trained_loss": 0.3, "mean_iou_without_ignored": 0.5} for i in (1, 2)]
    plots.loss_plot(tmp_path / "loss.png", [0.5, 0.4], [], points, "dice on a town")
    left, right = figures[0].axes[0], figures[0].axes[-1]
    drawn = {line.get_label(): list(line.get_ydata()) for axis in (left, right) for line in axis.lines}
    assert drawn["validation (the same loss)"] == [0.3, 0.3]
    assert drawn["validation, cross entropy (right)"] == [2.0, 2.0]
    assert left.get_ylim()[1] < 1 < right.get_ylim()[1]


def test_a_plot_that_finds_no_room_leaves_no_figure_in_memory(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    def figures():
        gc.collect()
        return sum(type(thing) is Figure for thing in gc.get_objects())

    monkeypatch.setattr(Figure, "savefig", full)
    before = figures()
    with pytest.raises(DiskFullError):
        plots.loss_plot(tmp_path / "loss.png", [1.0, 0.5], [], [], "a run")
    assert figures() == before


def test_the_loss_plot_shows_scores_and_rate_where_they_are(tmp_path):
    training = [{"iteration": i, "rate": 0.1 if i < 50 else 0.01, "mean_iou": 0.9} for i in range(1, 101)]
    plots.loss_plot(tmp_path / "loss.png", [1.0] * 100, training, [], "a net on a town")
    blue = (png(tmp_path / "loss.png") == (0x08, 0x51, 0x9C)).all(-1)
    height, width = blue.shape
    scores, rate = blue[height * 3 // 8 : height * 6 // 8], blue[height * 6 // 8 :]
    row = np.argmax(scores[:, width * 2 // 3 :].any(1)) / len(scores)
    assert row < 0.25  # 90 of 100 per cent: near the top
    assert np.argmax(rate[:, : width // 3].any(1)) < np.argmax(rate[:, width * 2 // 3 :].any(1)) - 20  # it falls


def test_the_graph_shows_a_box_for_every_layer(tmp_path):
    net = nets.build("segnet_slim", {"irrg": 3}, 6)
    plots.net_graph(tmp_path / "net.png", net, "segnet_slim")
    shown = png(tmp_path / "net.png")
    blue = (shown == (0x9E, 0xCA, 0xE1)).all(-1).sum(1) > 50  # rows of the picture that pass through a convolution
    assert np.count_nonzero(np.diff(blue.astype(int)) == 1) == sum(row.kind == "conv" for row in net.rows)


def places_of(name):
    """Where the boxes of a net with two inputs lie, column and row, and the boxes."""
    boxes = nets.build(name, {"irrg": 3, "dsm": 1}, 6, planes=(4, 4, 8, 8, 8)).boxes()
    return plots._places(boxes, plots._columns(boxes)), boxes


@pytest.mark.parametrize("name", ["segnet_rc", "fusenet", "fusenet_sum", "vfusenet"])
def test_two_inputs_are_two_columns_that_meet(name):
    places, boxes = places_of(name)
    assert places["irrg"][0] == -places["dsm"][0] < 0 and places["irrg"][1] == places["dsm"][1] == 0
    assert all(places[box.name][0] == places["dsm"][0] for box in boxes if box.name.startswith("dsm_"))
    assert places[boxes[-1].name][0] == 0
    assert len(set(places.values())) == len(boxes)  # none lies on another
    assert all(places[box.name][1] < places[read][1] for box in boxes for read in box.reads)  # all arrows go down
    middle = {y for x, y in places.values() if x == 0}
    beside = {y for x, y in places.values() if x}
    far = 1 if middle & beside else 0.5  # a column that runs beside the others takes room of its own
    assert places["dsm"][0] == far * plots._APART


def test_a_net_with_one_input_is_one_column():
    boxes = nets.build("segnet_slim", {"irrg": 3}, 6).boxes()
    places = plots._places(boxes, plots._columns(boxes))
    assert list(places.values()) == [(0, -i) for i in range(len(boxes))]
