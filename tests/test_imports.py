"""What importing a module really loads.

import-linter reads the static graph. It cannot see that importing `a.b.c` also
runs `a/__init__.py`, so the rule is proved here at run time.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "numpy"}
INTERFACE = {"textual", "rich", "watchdog"}


def modules_after_importing(module: str) -> set[str]:
    script = f"import {module}, sys; print(*sys.modules, sep='\\n')"
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(result.stdout.split())


def submodules(package: str) -> list[str]:
    folder = ROOT / package.replace(".", "/")
    names = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def test_no_module_of_the_run_directory_loads_a_framework():
    loaded = modules_after_importing(", ".join(submodules("agent.rundir")))

    assert loaded.isdisjoint(HEAVY | INTERFACE | {"psutil", "sqlite_utils"})


def test_the_whole_dashboard_loads_no_torch():
    dashboard = [m for m in submodules("opsdash") if not m.endswith("__main__")]

    loaded = modules_after_importing(", ".join(dashboard))

    assert loaded.isdisjoint(HEAVY | {"pydantic", "sqlite_utils"})


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("agent.rundir.events", HEAVY | INTERFACE | {"psutil"}),
        ("agent.session", HEAVY | INTERFACE),
        ("opsdash.cli", HEAVY | {"textual", "rich"}),
        ("trainer.cli", INTERFACE),
    ],
)
def test_importing(module: str, forbidden: set[str]):
    loaded = modules_after_importing(module)

    assert loaded.isdisjoint(forbidden)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["status", "--help"]])
def test_asking_for_help_loads_no_interface(arguments: list[str]):
    script = (
        "import sys\n"
        "from opsdash.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT
    )

    loaded = set(result.stderr.split())
    assert "opsdash.cli" in loaded
    assert loaded.isdisjoint(HEAVY | {"textual", "rich"})
