"""Run every benchmark of this folder and write `docs/benchmarks.md`.

Each runs in a process of its own, one after the other, with nothing else to do
on the machine if the figures are to mean much: the load is written down. One
that fails, or whose peers are not installed, says so in its place.

    python benchmarks/all.py [NAME …] [--output docs/benchmarks.md]
"""

import argparse
import ast
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.table import HEAD, RULE

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NOT_BENCHMARKS = {"all.py", "table.py"}
TIMEOUT_S = 3600
PACKAGES = (
    "torch",
    "msgspec",
    "isal",
    "blake3",
    "textual",
    "tensorboard",
    "wandb",
    "opentelemetry-sdk",
    "prometheus-client",
)


class Result(NamedTuple):
    """What one script said."""

    path: Path
    output: str
    took_s: float
    problem: str | None
    """Why there is no result, or not all of it."""

    @property
    def rows(self) -> list[str]:
        """The lines of its table."""
        lines = self.output.splitlines()
        return [t for t in lines if t.startswith("| ") and t not in (HEAD, RULE)]

    @property
    def notes(self) -> list[str]:
        """What it said besides."""
        lines = self.output.splitlines()
        return [t for t in lines if t.strip() and not t.startswith("|")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args()
    scripts = [
        path
        for path in sorted(HERE.glob("*.py"))
        if path.name not in NOT_BENCHMARKS
        and (not options.names or path.stem in options.names)
    ]
    load = os.getloadavg()[0]
    results = []
    for path in scripts:
        print(f"{path.stem} …", flush=True)
        results.append(run(path))
        for line in (*results[-1].notes, *results[-1].rows):
            print(f"    {line}")
        if results[-1].problem:
            print(f"    {results[-1].problem}")
    command = " ".join(["python", "benchmarks/all.py", *options.names])
    options.output.write_text("\n".join(page(results, command, load)) + "\n")
    return int(any(result.problem for result in results))


def run(path: Path) -> Result:
    """Run one script to its end; a missed target is a result like any other."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if error.stdout else ""
        return Result(path, output, TIMEOUT_S, f"stopped after {TIMEOUT_S} s")
    result = Result(path, done.stdout, time.monotonic() - began, None)
    is_broken = "Traceback (most recent call last)" in done.stderr or not done.stdout
    if done.returncode and is_broken:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        result = result._replace(problem=f"failed: {last[0]}")
    return result


def page(results: list[Result], command: str, load: float) -> Iterator[str]:
    kernel = platform.release().partition("-")[0]
    yield "# Benchmarks"
    yield ""
    yield f"Written by `{command}` on {time.strftime('%Y-%m-%d')}; not edited by hand."
    yield ""
    yield f"- machine: {processor()}, {os.cpu_count()} cores, {memory_gib():.0f} GiB"
    yield f"- system: {platform.system()} {kernel}, load {load:.1f} before"
    yield f"- Python {platform.python_version()}, {', '.join(versions())}"
    yield ""
    yield "A ratio compares both sides in one run on this machine. A claim without a"
    yield "target is for information."
    for result in results:
        yield ""
        yield from section(result)


def section(result: Result) -> Iterator[str]:
    yield f"## {result.path.stem}"
    yield ""
    yield " ".join(summary(result.path).split())
    yield ""
    yield f"`python benchmarks/{result.path.name}`, {result.took_s:.0f} s"
    if result.rows:
        yield ""
        yield HEAD
        yield RULE
        yield from result.rows
    if result.notes:
        yield ""
        yield "```text"
        yield from result.notes
        yield "```"
    if result.problem:
        yield ""
        yield f"**{result.problem}**"


def summary(path: Path) -> str:
    """Return the first line of a script's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.partition("\n\n")[0]


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name} is not installed"


if __name__ == "__main__":
    sys.exit(main())
