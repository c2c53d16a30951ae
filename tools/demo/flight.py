"""The made town as a surveyor has it: one orthomosaic, and a shapefile of what somebody digitised on it."""

from pathlib import Path

import numpy as np
import pyogrio
import shapely
from rasterio import features
from rasterio.transform import Affine

from tools.demo.scene import BUILDING, CAR, LOW_VEGETATION, TREE
from tools.geo import raster

ORTHO, LABELS = "ortho.tif", "labels.shp"
DIGITISED = (BUILDING, LOW_VEGETATION, TREE, CAR)  # streets and clutter are what no polygon covers
ATTRIBUTE = "class"


def write_flight(folder: Path, image: np.ndarray, labels: np.ndarray, names: list[str], place: Affine, crs: str) -> int:
    """Write both files into a folder; how many polygons there are comes back.

    image: 3 x h x w. labels: h x w, indices of `names`. place, crs: of both.
    """
    raster.write(folder / ORTHO, image, crs=crs, transform=place)
    found = list(features.shapes(labels, np.isin(labels, DIGITISED), connectivity=4, transform=place))
    polygons = shapely.to_wkb([shapely.geometry.shape(polygon) for polygon, _ in found])
    classes = np.array([names[int(label)] for _, label in found], object)
    pyogrio.raw.write(
        folder / LABELS, polygons, [classes], [ATTRIBUTE], driver="ESRI Shapefile", geometry_type="Polygon", crs=crs,
        encoding="UTF-8",
    )  # fmt: skip
    return len(found)
