"""Labels as one plane per class, and back: what some losses, other people's nets and numpy recipes ask for."""

import numpy as np


def encode(labels: np.ndarray, classes: int) -> np.ndarray:
    """Planes (classes x h x w, bool) of labels (h x w): plane c is True where the label is c.

    A pixel that is not scored, whatever its number from `classes` on, is False in all planes.
    """
    return labels[None] == np.arange(classes)[:, None, None]


def decode(planes: np.ndarray, unscored: int) -> np.ndarray:
    """Labels (h x w, uint8) of planes (classes x h x w): the class whose plane is largest, `unscored` where all are zero.

    Probabilities are planes too. Of equal ones the first class wins.
    """
    labels = planes.argmax(0).astype(np.uint8)
    labels[~planes.any(0)] = unscored
    return labels
