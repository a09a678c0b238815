"""The proof of a resume: what it compares, and that it notices a difference."""

import math
import shutil

import pytest
import torch

from agent.rundir.checkpoints import newest_resumable
from agent.rundir.layout import RunDir
from tests.processes import ROOT
from tests.trainer.small import make
from trainer.checkpoint.checking import differences
from trainer.cli import main
from trainer.commands.prove_resume import Comparison, compare, report


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("proof") / "whole"
    make(path, max_epochs=1).train()
    return RunDir(path)


@pytest.fixture
def other(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "other")
    return RunDir(tmp_path / "other")


def test_equal_runs_are_equal_and_so_it_is_told(whole, other):
    result = compare(whole, other)

    assert result == Comparison(6, [], [])
    assert result.is_exact
    assert report(result).splitlines() == [
        "losses: 6 of 6 bitwise equal",
        "state: every piece bitwise equal",
    ]


def test_a_loss_that_differs_in_its_last_bit_is_found(whole, other):
    path = other.telemetry_file(1, "rank-00000")
    text = path.read_text()
    lines = [line for line in text.splitlines() if '"step_done"' in line]
    loss = lines[2].partition('"loss":')[2].partition(",")[0]
    path.write_text(text.replace(loss, repr(math.nextafter(float(loss), math.inf))))

    result = compare(whole, other)

    assert result.unequal_steps == [3]
    assert "the first that differs is that of step 3" in report(result)


def test_the_piece_of_state_that_differs_is_named(whole, other):
    path = newest_resumable(other).path / "state.pt"
    saved = torch.load(path, weights_only=True)
    saved["rng"][0]["torch"][100] ^= 1
    saved["progress"]["offset"] = 3
    ours = torch.load(newest_resumable(whole).path / "state.pt", weights_only=True)

    pieces = differences(ours, saved)

    assert pieces == ["progress.offset", "rng.0.torch"]
    told = report(Comparison(6, [], pieces))
    assert "state: `progress` differs in 1 places, e.g. `progress.offset`" in told
    assert "state: `rng` differs in 1 places, e.g. `rng.0.torch`" in told


@pytest.mark.dist
@pytest.mark.slow
def test_the_small_gpt_resumes_exactly_in_the_middle_of_an_epoch(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sizes = ["--width", "16", "--layers", "1", "--heads", "2", "--block", "16"]

    code = main(
        [
            *("prove-resume", str(tmp_path / "none"), "--nproc", "1"),
            *("--prove-steps", "4"),
            *("--corpus-bytes", "9000", "--ema-decay", "0.9", *sizes),
        ]
    )

    assert code == 0
    assert "losses: 8 of 8 bitwise equal" in capsys.readouterr().out
