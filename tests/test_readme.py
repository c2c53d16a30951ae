"""Proves that the READMEs tell the truth: folders, modules, settings, nets and commands that they name exist, and all do."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

import nets
from nets.net import Net

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tracked(*patterns: str) -> set[str]:
    """The files of the checkout, below the project's folder."""
    words = ["git", "ls-files", "-co", "--exclude-standard", *patterns]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return {f for f in listed.stdout.split("\n") if f and (ROOT / f).exists()}


def named_in(page: str) -> set[str]:
    """The files in `code quotes` of a page."""
    return set(re.findall(r"`([\w/.]+)`", (ROOT / page).read_text(encoding="utf-8")))


def test_the_tree_names_every_folder_and_no_other():
    block = re.search(r"<!-- tree -->\n+```\n(.*?)```", README, re.DOTALL)[1]
    lines = [line for line in block.splitlines() if line]
    assert len(lines) <= 30
    named, above = set(), ""
    for line in lines:
        indent, names, phrase = re.match(r"( *)((?:\S+/ )*\S+) +(\S.*)", line).groups()
        assert phrase, f"no phrase behind {names}"
        above = above if indent else names
        named |= {(above if indent else "") + name for name in names.split()}
    folders = {f"{Path(f).parent}/" for f in tracked() if len(Path(f).parts) > 1}
    folders = {f for f in folders if f.count("/") <= 2 and not f.startswith("tests/data")}
    assert {n for n in named if n.endswith("/")} == folders
    assert all((ROOT / n).is_file() for n in named if not n.endswith("/"))


def test_every_module_of_tools_stands_in_its_page():
    named = named_in("tools/README.md")
    for path in map(Path, tracked("tools/*.py", "tools/**/*.py")):
        if path.name not in ("__init__.py", "__main__.py"):
            assert path.name in named or f"tools.{path.stem}" in (ROOT / "tools/README.md").read_text(), path


def test_every_file_of_tests_stands_in_its_page():
    assert {Path(f).name for f in tracked("tests/*.py")} == {n for n in named_in("tests/README.md") if n.endswith(".py")}


def test_pictures_and_pages_that_it_links_to_exist():
    links = re.findall(r"\]\((?!http|#)([^)#]+)", README)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link


def test_every_net_of_the_folder_stands_in_its_table():
    for name in nets.names():
        assert f"`{name}`" in README, name


def test_pictures_are_small():
    for picture in (ROOT / "docs").glob("*.png"):
        assert picture.stat().st_size < 500_000, picture


def test_the_net_of_your_own_runs_as_it_stands_there():
    code = re.search(r"```python\n# nets/small.py\n(.*?)```", README, re.DOTALL)[1]
    names = {}
    exec(code, names)
    net = Net(names["small"](3, 5))
    assert net(torch.randn(1, 3, 64, 96)).shape == (1, 5, 64, 96)


def test_the_commands_that_it_shows_name_scripts_and_options_that_exist():
    for command in re.findall(r"^ +(python [^#\n]+)", README, re.MULTILINE):
        script, *words = command.split()[1:]
        module, words = (words[0], words[1:]) if script == "-m" else (script.removesuffix(".py"), words)
        if module in ("venv",):
            continue
        path = ROOT / (module.replace(".", "/") + ".py")
        path = path if path.exists() else ROOT / module.replace(".", "/") / "__main__.py"
        assert path.exists(), command
        shared = ("tools/base/commands.py", "tools/compute/options.py", "tools/maps/choice.py")
        text = "".join(p.read_text(encoding="utf-8") for p in (path, *(ROOT / name for name in shared)))
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in text, f"{command}: no {option}"
