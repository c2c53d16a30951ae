"""One HTML file that labels images in a browser: the net, what runs it and what reads and saves images, all inside.

Our own modules stand beside this file. The libraries that they build on are fetched by npm when the first page is made, at the
versions that a lock file names; node bundles both.
"""

import base64
import gzip
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import onnx
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nets.net import check_size
from tools.base.errors import UserError, listing
from tools.base.folders import whole_file
from tools.export.end_to_end import Program, file_order, raw
from tools.html.template import LOOK
from tools.inference.settings import AUTO, InferenceSettings
from tools.inference.window_size import windows_for

SOURCES = Path(__file__).parent
_LEAST_NODE = 18
_OF_NET = ("name", "iteration", "classes", "palette", "ignored")


def check(program: Program, about: Mapping[str, Any], classes: Sequence[str], inference: InferenceSettings) -> None:
    """Raise UserError if no page can be made for want of node or for RESIZE, or if the config is not for this net."""
    if about.get("resize"):
        raise UserError(
            f"{about['name']} was trained with RESIZE = {about['resize']}, which a page does not do: label with inference.py,"
            " or train without RESIZE."
        )
    _node()
    if list(classes) != about["classes"]:
        raise UserError(
            f"{about['name']} knows the classes {listing(about['classes'])}, the config's label_values are"
            f" {listing(classes)}: name the config that it was trained with, --config FILE."
        )
    windows = windows_for(inference, program.net.net, only=program.size if inference.test_patch_size == AUTO else None)
    check_size(*windows.size, program.multiple)
    if program.size and windows.size != (program.size, program.size):
        raise UserError(f"--size {program.size}: the page's windows are test_patch_size = {windows.size}: leave out --size.")


def write(path: Path, model: onnx.ModelProto, facts: Mapping[str, Any]) -> None:
    """Write the page. facts: what `facts_of` gives. Raises UserError if its libraries cannot be fetched."""
    parts = _parts(model.SerializeToString())
    environment = Environment(loader=FileSystemLoader(SOURCES), undefined=StrictUndefined, trim_blocks=True, autoescape=True)
    page = environment.get_template("page.html.j2").render(
        about=facts, parts=parts, wanted=_wanted(facts["inputs"]), one=len(facts["inputs"]) == 1
    )
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def facts_of(
    program: Program, model: onnx.ModelProto, about: Mapping[str, Any], inference: InferenceSettings, weights: Path
) -> dict:
    """What the page knows of its net, as JSON values: what the snapshot says, how windows are laid and averaged, and whence.

    on_processor: nodes that WebGPU lacks, poolings that also give indices.
    """
    windows = windows_for(inference, program.net.net, only=program.size)
    return {name: about[name] for name in _OF_NET} | {
        "dataset": about.get("dataset"), "pixel_size": about.get("pixel_size"), "inputs": [_input(i) for i in program.inputs],
        **windows.to_dict(), "blend": inference.BLEND,
        "threshold": inference.THRESHOLD, "memory": inference.MEMORY_MB * 2**20,
        "on_processor": [n.name for n in model.graph.node if _gives_indices(n)],
        "made": {"weights": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), "on": str(date.today())},
    }  # fmt: skip


def _input(spec) -> dict:
    """An input as the page reads it, in the files' order of bands, with the spread of its values for trials."""
    spread = spec.deviation and [spec.deviation[i] for i in file_order(spec)]
    return raw(spec).to_dict() | ({"spread": spread} if spread else {})


def _gives_indices(node: onnx.NodeProto) -> bool:
    return node.op_type == "MaxPool" and len([name for name in node.output if name]) > 1


def _wanted(inputs: list[dict]) -> str:
    """The files that the net wants, for people: "3 bands of irrg (uint8) and 1 band of dsm (float32)"."""
    wanted = {}
    for spec in inputs:
        for i, modality in enumerate(spec["modalities"]):
            count = (spec.get("file_bands") or spec["bands"])[i]
            kind = f" ({spec['dtypes'][i]})" if spec.get("dtypes") else ""
            wanted[modality] = f"{count} band{'s' if count > 1 else ''} of {modality}{kind}"
    return " and ".join(wanted.values())


class _Parts:
    """What the template puts together: style and script as they stand, packed: gzip in base64, by id."""

    def __init__(self, folder: Path, net: bytes):
        packed = {path.stem: path.read_bytes() for path in sorted(folder.iterdir()) if path.stem.startswith(("code-", "wasm-"))}
        packed |= {"net": in_planes(net), "licences-text": (folder / "licences.txt").read_bytes()}
        self.packed = {name: base64.b64encode(gzip.compress(content, 9, mtime=0)).decode() for name, content in packed.items()}
        sheets = (LOOK / "colours.css", LOOK / "viewer.css", SOURCES / "page.css")
        self.style = Markup("".join(sheet.read_text(encoding="utf-8") for sheet in sheets))
        self.script = Markup((folder / "main.js").read_text(encoding="utf-8").replace("</script", "<\\/script"))
        about = json.loads((folder / "libraries.json").read_text(encoding="utf-8"))
        self.libraries = [f"{library['name']} {library['version']} ({library['license'].strip('()')})" for library in about]


def in_planes(content: bytes) -> bytes:
    """The first bytes of all groups of four, then the second ones, and so on: so the exponents of float32 pack better."""
    whole = len(content) // 4 * 4
    return b"".join(content[i:whole:4] for i in range(4)) + content[whole:]


def _parts(net: bytes) -> _Parts:
    _fetch_libraries()
    with tempfile.TemporaryDirectory() as folder:
        _run([_node(), str(SOURCES / "build.mjs"), folder], "the page's modules cannot be bundled")
        return _Parts(Path(folder), net)


def _fetch_libraries() -> None:
    """Have npm fetch what the lock file names, unless that is there."""
    lock, fetched = SOURCES / "package-lock.json", SOURCES / "node_modules" / ".package-lock.json"
    if fetched.exists() and fetched.stat().st_mtime >= lock.stat().st_mtime:
        return
    npm = shutil.which("npm")
    if not npm:
        raise UserError(
            "--page needs npm, which comes with node, to fetch the page's libraries: install it (https://nodejs.org)."
        )
    print("fetching the page's libraries by npm, once ...", flush=True)
    _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], "npm cannot fetch the page's libraries")


def _node() -> str:
    node = shutil.which("node")
    version = node and subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    if not version or int(version.lstrip("v").split(".")[0]) < _LEAST_NODE:
        found = f"there is {version.strip()}" if version else "there is none"
        raise UserError(f"--page needs node {_LEAST_NODE} or newer to put the page together, {found}: see https://nodejs.org.")
    return node


def _run(command: list[str], fault: str) -> None:
    ran = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, check=False)
    if ran.returncode:
        lines = [line for line in ran.stderr.splitlines() if line.strip() and "A complete log" not in line]
        reason = next((line for line in lines if "rror" in line), lines[-1] if lines else f"exit code {ran.returncode}")
        raise UserError(f"{fault} ({reason.strip()[:300]}): see that node works and that there is a network, then try again.")
