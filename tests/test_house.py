"""Proves that the house keeps its order: one theme a folder, few modules in it, and imports between folders one way."""

import ast
from pathlib import Path

import pytest
from conftest import REPO

SCRIPTS = ("convert_gt", "extract_images", "create_db", "training", "inference")
ORDER = [  # a folder imports from folders of the lines above its own, and from itself
    ("tools.base",),
    ("tools.compute", "tools.geo"),
    ("nets",),
    ("tools.weights", "tools.labels"),
    ("tools.data",),
    ("tools.record", "tools.export", "tools.solver", "tools.polygons", "tools.html"),
    ("tools.inference",),
    ("tools.training", "tools.maps", "tools.page"),
    ("tools.settings",),  # the wings' sections, together
    (
        "tools.composite",
        "tools.demo",
        "tools.report",
        "tools.show",
        "tools.start",
        "tools.check",
        "tools.runs",
        "tools.final",
        "tools.choices",
        "tools.blocks",
        "tools.caffe",
        "tools.adopt",
        "tools.notebook",
        "tools.export.__main__",
    ),
    ("tools.osm",),  # finds tiles and their pixels' sizes as composites do
    SCRIPTS,
]
LEVEL = {folder: level for level, line in enumerate(ORDER) for folder in line}
MOST_MODULES = 13


def modules():
    """The project's own modules: dotted name -> path."""
    files = [*REPO.glob("tools/**/*.py"), *REPO.glob("nets/**/*.py"), *(REPO / f"{name}.py" for name in SCRIPTS)]
    return {".".join(p.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): p for p in files}


def folder_of(module):
    """The line of ORDER that a module belongs to, by its longest name there; "" if it has none."""
    return max((f for f in LEVEL if module == f or module.startswith(f + ".")), key=len, default="")


def imported_by(tree):
    """The dotted names that some code imports, wherever the import stands; `from a import b` counts as a and as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (word.value for word in node.args if isinstance(word, ast.Constant))


def breaches(name, text):
    """Imports of a module against ORDER, as 'importer -> imported'."""
    own = folder_of(name)
    for other in imported_by(ast.parse(text)):
        folder = folder_of(other)
        if folder and folder != own and LEVEL[folder] >= LEVEL[own]:
            yield f"{name} -> {other}"


def test_every_module_has_its_place_in_the_order():
    assert [name for name in modules() if name != "tools" and not folder_of(name)] == []


def test_folders_import_one_way():
    assert [breach for name, path in modules().items() for breach in breaches(name, path.read_text())] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tools.base.errors", "from tools.geo import raster"),
        ("tools.geo.raster", "def late():\n    import tools.compute.device"),
        ("tools.data.loader", "from tools.inference.forward import Forward"),
        ("tools.training.trainer", "import importlib\nimportlib.import_module('tools.maps.outputs')"),
        ("nets.layers", "from tools.labels.palette import Palette"),
        ("tools.maps.outputs", "import training"),
    ],
)
def test_a_breach_is_told_with_both_ends(name, text):
    (breach,) = breaches(name, text)
    importer, imported = breach.split(" -> ")
    assert importer == name and imported.split(".")[0] in text


def test_the_tables_of_nets_do_not_need_caffes_formats():
    """nets/caffe/ builds on the tables; only the finder of nets, nets/__init__.py, looks into it."""
    own = {name: path for name, path in modules().items() if name.startswith("nets.") and path.parent.name == "nets"}
    assert [n for n, p in own.items() if any(m.startswith("nets.caffe") for m in imported_by(ast.parse(p.read_text())))] == []


def test_no_folder_holds_more_modules_than_a_person_can_survey():
    folders: dict[Path, int] = {}
    for path in modules().values():
        if path.name != "__init__.py" and path.parent != REPO and path.parent.name != "nets":
            folders[path.parent] = folders.get(path.parent, 0) + 1
    assert {str(folder): count for folder, count in folders.items() if count > MOST_MODULES} == {}
