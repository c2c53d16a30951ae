"""Pictures inside a page: data URIs, so that one file holds all of it."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image


def photograph(picture: Image.Image) -> str:
    """A picture as the data URI of a JPEG."""
    return _uri(picture, "jpeg", quality=80)


def label_picture(labels: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> str:
    """Labels (h x w, uint8) in their colours as the data URI of a PNG; what is no class has the last colour."""
    picture = Image.fromarray(np.minimum(labels, len(colours) - 1).astype(np.uint8))
    picture.putpalette([part for colour in colours for part in colour])
    return _uri(picture, "png")


def _uri(picture: Image.Image, kind: str, **options) -> str:
    content = io.BytesIO()
    picture.save(content, kind, optimize=True, **options)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
