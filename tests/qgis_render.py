"""Run by QGIS's own Python: draws layers as QGIS opens them, and tells their legends as JSON.

QT_QPA_PLATFORM=offscreen python3 qgis_render.py picture.png layer [layer ...]
"""

import json
import sys

from qgis.core import QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsRasterLayer, QgsVectorLayer
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor


def opened(path):
    """A layer with its default style, as when it is dragged into QGIS."""
    kind = QgsRasterLayer if path.endswith(".tif") else QgsVectorLayer
    layer = kind(path, path)
    assert layer.isValid(), path
    return layer


def legend(layer):
    """(label, colour) of each entry."""
    renderer = layer.renderer()
    if isinstance(layer, QgsRasterLayer):
        return [(c.label, c.color.name()) for c in renderer.classes()] if renderer.type() == "paletted" else renderer.type()
    if renderer.type() != "categorizedSymbol":
        return renderer.type()
    return [(c.label(), c.symbol().color().name()) for c in renderer.categories()]


application = QgsApplication([], False)
application.initQgis()
layers = [opened(path) for path in sys.argv[2:]]
settings = QgsMapSettings()
settings.setLayers(layers)
settings.setBackgroundColor(QColor(120, 120, 120))
settings.setOutputSize(QSize(900, 900))
settings.setDestinationCrs(layers[0].crs())
settings.setExtent(layers[0].extent())
job = QgsMapRendererParallelJob(settings)
job.start()
job.waitForFinished()
job.renderedImage().save(sys.argv[1])
print("LEGENDS", json.dumps([legend(layer) for layer in layers]))
