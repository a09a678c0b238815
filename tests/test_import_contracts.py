"""The contracts catch what they are for: each is broken once, in a copy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in ("agent", "opsdash", "trainer"):
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def test_torch_in_a_module_of_the_run_directory_breaks_a_contract(copy):
    path = copy / "agent" / "rundir" / "tail.py"
    path.write_text(f"{path.read_text()}\nimport torch  # noqa\n")

    found = lint(copy)

    assert found.returncode == 1
    assert "The run directory needs no framework BROKEN" in found.stdout


def test_a_module_without_a_place_breaks_a_contract(copy):
    (copy / "agent" / "stray.py").write_text('"""Nobody gave it a layer."""\n')

    found = lint(copy)

    assert found.returncode == 1
    assert "agent.stray" in found.stdout


def test_the_trainer_in_the_dashboard_breaks_a_contract(copy):
    path = copy / "opsdash" / "units.py"
    path.write_text(f"{path.read_text()}\nimport trainer.cli  # noqa\n")

    found = lint(copy)

    assert found.returncode == 1
    assert "opsdash and trainer know agent, and not each other BROKEN" in found.stdout


def test_torch_in_a_parent_package_is_seen_only_at_run_time(copy):
    path = copy / "agent" / "__init__.py"
    path.write_text(f"{path.read_text()}\nimport torch  # noqa\n")

    script = "import agent.rundir.events, sys; print('torch' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        cwd=copy,
        capture_output=True,
        text=True,
        check=True,
    )

    assert loaded.stdout == "True\n"
