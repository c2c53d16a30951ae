"""Proves that the README tells the truth about the repository: its tree names every file, its settings and nets exist."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

import nets
from nets.net import Net

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tree() -> set[str]:
    """The files that the README's tree names: a line is indentation, a name (folders end in a slash), a phrase."""
    block = re.search(r"<!-- tree -->\n+```\n(.*?)```", README, re.DOTALL)[1]
    files, folders = set(), {0: ""}
    for line in block.splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()
        depth = len(indent) // 2
        assert len(line.split(maxsplit=1)) == 2, f"no phrase behind {name}"
        if name.endswith("/"):
            folders[depth + 1] = folders[depth] + name
        else:
            files.add(folders[depth] + name)
    return files


def test_the_tree_names_just_the_files_on_disk():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    on_disk = {
        f for f in listed.stdout.split("\n") if f and not f.endswith(("__init__.py", ".gitignore")) and (ROOT / f).exists()
    }
    assert tree() == on_disk


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
        path = path if path.exists() else ROOT / module / "__main__.py"
        assert path.exists(), command
        text = path.read_text(encoding="utf-8") + (ROOT / "tools/base/commands.py").read_text(encoding="utf-8")
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in text, f"{command}: no {option}"
