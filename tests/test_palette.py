"""Proves that colours become labels and labels colours as the palette says, and that what it does not say is refused."""

import numpy as np
import pytest
from conftest import COLOURS, NAMES
from hypothesis import given
from hypothesis import strategies as st

from tools.base.errors import UserError
from tools.labels.palette import UNKNOWN, Palette, codes_of, look_up_table, name_colours

ISPRS = Palette(NAMES, COLOURS)


def labels_of(rgb):
    """The labels of colours, as tools.labels.masks looks them up."""
    return look_up_table({colour: label for label, colour in COLOURS.items()})[codes_of(rgb)]


def without_unscored():
    return Palette(NAMES, {k: v for k, v in COLOURS.items() if k != 6})


def test_each_colour_becomes_its_label():
    rgb = np.array([[COLOURS[k] for k in (0, 1, 2)], [COLOURS[k] for k in (3, 4, 5)]], np.uint8)
    assert labels_of(rgb).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_black_is_the_label_after_the_last_class():
    assert ISPRS.unscored == 6
    assert labels_of(np.zeros((1, 1, 3), np.uint8)).tolist() == [[6]]
    assert without_unscored().unscored is None


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_labels_to_colours_and_back_is_exact(values):
    labels = np.array([values], np.uint8)
    assert np.array_equal(labels_of(ISPRS.to_colours(labels)), labels)


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_a_colour_that_is_one_off_is_unknown_and_never_class_0(colour):
    rgb = np.array([[colour]], np.uint8)
    if colour in COLOURS.values():
        assert COLOURS[labels_of(rgb)[0, 0]] == colour
    else:
        assert labels_of(rgb)[0, 0] == UNKNOWN


def test_unknown_colours_are_named_with_their_counts_most_frequent_first():
    said = name_colours({0x010203: 3, 0xFAFAFA: 5})
    assert said == "8 pixels have colours that no class has: (250, 250, 250) on 5 pixels, (1, 2, 3) on 3 pixels."


def test_many_unknown_colours_are_cut_short_in_the_sentence():
    said = name_colours(dict.fromkeys(range(40), 1))
    assert said.startswith("40 pixels ") and said.endswith(" and 34 more.")


@pytest.mark.parametrize("label", [7, 255])
def test_a_label_without_a_colour_is_refused_with_its_count(label):
    labels = np.zeros((3, 3), np.uint8)
    labels[1] = label
    for use in (ISPRS.to_colours, ISPRS.check_labels):
        with pytest.raises(UserError, match=rf"{label} \(3 pixels\)"):
            use(labels)


@pytest.mark.parametrize(
    ("names", "colours", "words"),
    [
        (["a"], {0: (0, 0, 0)}, "there must be 2"),
        (["a", "a"], {0: (0, 0, 0), 1: (1, 1, 1)}, "a name twice"),
        (["a", "b"], {0: (0, 0, 0)}, "give a colour to each"),
        (["a", "b"], {0: (0, 0, 0), 1: (1, 1, 1), 3: (3, 3, 3)}, "give a colour to each"),
        (["a", "b"], {0: (0, 0, 0), 1: (0, 0, 0)}, "gives the colour (0, 0, 0) to both 0 and 1"),
        (["a", "b"], {0: (0, 0, 0), 1: (0, 0, 256)}, "palette[1] = (0, 0, 256)"),
        (["a", "b"], {0: (0, 0, 0), 1: (0, 0)}, "palette[1] = (0, 0)"),
        (["a", "b"], {0: (0, 0, 0), 1: (0, 0, 0.5)}, "palette[1] = (0, 0, 0.5)"),
    ],
)
def test_classes_and_colours_that_do_not_fit_together_are_refused(names, colours, words):
    with pytest.raises(UserError) as found:
        Palette(names, colours)
    assert words in str(found.value)
