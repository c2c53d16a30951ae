"""Runs scripts on bad inputs, a forked child of this warm process for each case, and says what each one did wrong."""

import hashlib
import importlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.base.errors import run

SECONDS = 300  # after which a case hangs, on a busy machine too
WRONG = [None, "x", -1, 0.5, float("inf"), float("nan"), [], {}, True, [[]], ["x"], {"x": "y"}, 10**12, "n" * 300]
LOGS = ("training.log", "metrics.json", "tensorboard", "loss.png", "net.png")  # what a training that fails may have written


@dataclass(frozen=True)
class Case:
    """A script with its words, run in a copy of a town after `spoil` has been called with its folder.

    changes: names at the top of the copy that the script may change if it succeeds. config: settings that differ.
    """

    name: str
    script: str
    words: tuple = ()
    spoil: Callable[[Path], None] = lambda base: None
    changes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    config: dict = field(default_factory=dict)
    codes: tuple[int, ...] = (0, 1, 2)


def faults(warm: "Warm", case: Case, base: Path) -> list[str]:
    """What a script did wrong on a case; base: the copy of the town that it runs in."""
    case.spoil(base)
    before = contents(base)
    code, err = warm.run(case.script, [str(word).replace("@", f"{base}/") for word in case.words], base)
    after = contents(base)
    found = []
    if code is None:
        found.append("it hangs")
    elif code not in case.codes:
        found.append(f"it ends with {code}")
    if "Traceback" in err:
        found.append("it shows a traceback")
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip()]
    if code == 2 and (not lines or ": " not in lines[-1] or len(lines[-1]) < 20):
        found.append("it does not say why")
    may_change = case.changes if code in (0, 1) else ()
    for path, was in before.items():
        if path.parts[0] not in may_change and after.get(path) != was and not set(LOGS) & set(path.parts):
            found.append(f"it changed {path}")
    left = [str(path) for path in after if path not in before and (".partial" in str(path) or path.name.endswith(".lock"))]
    if left:
        found.append(f"it left {left[:3]}")
    return [f"{case.name}: {fault}: {' | '.join(lines[-12:] if code == 70 else lines[-1:])[-1500:]}" for fault in found]


class Warm:
    """A process that has imported what the scripts need, and forks a child for each of them.

    Tests run in another one: a child could wait for ever for threads that its parent had, and it has not.
    """

    def __enter__(self) -> "Warm":
        words = [sys.executable, __file__]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        return self

    def __exit__(self, *_) -> None:
        self._process.communicate("")

    def run(self, script: str, words: list[str], base: Path, **kill) -> tuple[int | None, str]:
        """Exit code (None: it hung; -9: killed) and standard error of a script that runs in a folder. kill: as in `Job`."""
        return self.run_together([Job(script, words, str(base), str(base.parent / f"{base.name}.err"), SECONDS, **kill)])[0]

    def run_together(self, jobs: list["Job"]) -> list[tuple[int | None, str]]:
        """The same of scripts that run at once."""
        for job in jobs:
            Path(job.err).touch()  # one that is killed at once makes none
        self._process.stdin.write(json.dumps([asdict(job) for job in jobs]) + "\n")
        self._process.stdin.flush()
        codes = json.loads(self._process.stdout.readline())
        found = [(code, Path(job.err).read_text(errors="replace")) for code, job in zip(codes, jobs, strict=True)]
        for job in jobs:
            Path(job.err).unlink()
        return found


@dataclass(frozen=True)
class Job:
    """A script to run in a folder; err: the file that gets its standard error.

    It is killed after some seconds, or right before it gives a file or folder its n-th new name (n counts from 1), if so said.
    """

    script: str
    words: list[str]
    base: str
    err: str
    seconds: float
    kill_after: float | None = None
    kill_at: int | None = None


def serve() -> None:
    """What the warm process does: a child for each line of standard input, whose exit code it prints."""
    for name in ("training", "inference", "tools.training.folds", "tools.inference.load", "tools.report.page"):
        importlib.import_module(name)
    plots = importlib.import_module("tools.record.plots")
    plots.net_graph = plots.loss_plot = lambda path, *_: path.touch()  # real ones take longer than a few iterations
    for line in sys.stdin:
        jobs = [Job(**about) for about in json.loads(line)]
        children = [_child(job) for job in jobs]
        print(json.dumps([_wait(child, job) for child, job in zip(children, jobs, strict=True)]), flush=True)


def _child(job: Job) -> int:
    child = os.fork()
    if not child:
        if job.kill_at:
            _kill_at(job.kill_at)
        _be_the_script(job.script, job.words, Path(job.base), Path(job.err))
    return child


def _kill_at(number: int) -> None:
    """Have this process killed before its so-manieth renaming: Python's own, or the exchange of two names."""
    left, exchange = [number], importlib.import_module("tools.base.exchange")

    def count(event: str, _=None) -> None:
        if event == "os.rename":
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    real = exchange.exchange
    exchange.exchange = lambda *paths: count("os.rename") or real(*paths)
    sys.addaudithook(count)


def _be_the_script(script: str, words: list[str], base: Path, err: Path) -> None:
    code = 99
    try:
        os.setsid()
        os.chdir(base)
        sys.path.append(str(base))
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        sys.argv = [f"{script}.py", *words]
        module = importlib.import_module(script)
        if hasattr(module, "__path__"):  # a package: `python -m` runs its __main__
            module = importlib.import_module(f"{script}.__main__")
        try:
            run(module.main)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, job: Job) -> int | None:
    start = time.monotonic()
    while time.monotonic() < start + job.seconds:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if job.kill_after is not None and time.monotonic() > start + job.kill_after:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def contents(base: Path) -> dict[Path, str]:
    """What is below a folder: each file by a hash of what it holds, anything else by its kind."""
    found = {}
    for path in base.rglob("*"):
        mode = path.lstat().st_mode
        known = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else str(stat.S_IFMT(mode))
        found[path.relative_to(base)] = known
    return found


# ------------------------------------------------------------------------------------------------------- ways to spoil files


def replaced_by(name: str, data: bytes) -> Callable[[Path], None]:
    """The file holds something else."""
    return lambda base: (base / name).write_bytes(data) and None


def cut(name: str, share: float) -> Callable[[Path], None]:
    """The file breaks off."""
    return lambda base: os.truncate(base / name, int((base / name).stat().st_size * share))


def flipped(name: str, place: float, count: int = 8) -> Callable[[Path], None]:
    """Some bytes of the file are others."""

    def spoil(base: Path) -> None:
        data = bytearray((base / name).read_bytes())
        start = int(place * (len(data) - count))
        data[start : start + count] = bytes(255 - byte for byte in data[start : start + count])
        (base / name).write_bytes(data)

    return spoil


def special(name: str, kind: str) -> Callable[[Path], None]:
    """A pipe, a folder, a device or a broken link stands in the place of the file."""

    def spoil(base: Path) -> None:
        path = base / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        makers = {"pipe": os.mkfifo, "folder": Path.mkdir, "device": lambda p: p.symlink_to("/dev/zero")}
        makers |= {"nothing": lambda p: None, "circle": lambda p: p.symlink_to(p), "dead link": lambda p: p.symlink_to("none")}
        makers[kind](path)

    return spoil


SPECIAL = ("pipe", "folder", "device", "nothing", "circle", "dead link")


def files_spoilt(name: str) -> Iterator[tuple[str, Callable]]:
    """Ways to spoil any file, by their names."""
    yield from ((f"{name} is a {kind}", special(name, kind)) for kind in SPECIAL)
    yield from ((f"{name} cut to {share}", cut(name, share)) for share in (0, 0.01, 0.3, 0.6, 0.9, 0.999))
    yield from ((f"{name} flipped at {place}", flipped(name, place)) for place in (0, 0.001, 0.02, 0.1, 0.4, 0.7, 0.95, 1))
    yield f"{name} is text", replaced_by(name, b"what is this?\n")
    yield f"{name} is noise", replaced_by(name, hashlib.sha512(b"noise").digest() * 40)


def json_spoilt(name: str, value: object) -> Iterator[tuple[str, Callable]]:
    """Ways to spoil a JSON file that holds `value`, by their names: any entry, two levels deep, is missing or wrong."""
    for text in ("", "null", "[]", "{}", "3", '"x"', "[" * 50_000, '{"a": 1', "\ufeff{}", "{'a': 1}"):
        yield f"{name} is {text[:9]}", replaced_by(name, text.encode())
    for keys in _entries(value):
        yield f"{name} without {'.'.join(keys)}", _changed(name, keys, None, remove=True)
        for wrong in WRONG:
            yield f"{name}: {'.'.join(keys)} = {str(wrong)[:20]}", _changed(name, keys, wrong)


def _entries(value: object, above: tuple = (), deep: int = 3) -> Iterator[tuple]:
    if isinstance(value, dict) and deep:
        for key in list(value)[:12]:
            yield (*above, key)
            yield from _entries(value[key], (*above, key), deep - 1)


def _changed(name: str, keys: tuple, wrong: object, remove: bool = False) -> Callable[[Path], None]:
    def spoil(base: Path) -> None:
        whole = json.loads((base / name).read_text())
        (base / name).write_text(json.dumps(changed(whole, keys, wrong, remove)))

    return spoil


def changed(whole: object, keys: tuple, wrong: object, remove: bool = False) -> object:
    """A JSON value of which one entry is missing or another."""
    place = whole
    for key in keys[:-1]:
        place = place[key]
    if remove:
        del place[keys[-1]]
    else:
        place[keys[-1]] = wrong
    return whole


if __name__ == "__main__":
    serve()
