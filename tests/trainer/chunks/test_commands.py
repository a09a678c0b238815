import json

import pytest
import torch

from agent.rundir.chunks.errors import NoSuchRoundError
from agent.rundir.errors import NotARunError
from tests.trainer.chunks.original import OriginalStore
from tests.trainer.chunks.store_faults import (
    lose_chunk,
    same_tensors,
    small_model,
    store_path,
)
from trainer.chunks.commands import (
    diff_main,
    foreign_main,
    prune_main,
    repair_main,
    restore_main,
)
from trainer.chunks.store import ChunkStore
from trainer.cli import main
from trainer.settings import UsageError


@pytest.fixture
def run_dir(tmp_path):
    for node in ("server", "client-1"):
        with ChunkStore.open(store_path(tmp_path, node)) as store:
            store.put_round(3, small_model())
    return tmp_path


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_restore_writes_a_file(run_dir, tmp_path, capsys):
    to = tmp_path / "round.pt"

    code = restore_main(
        [str(run_dir), "--node", "server", "--round", "3", "--to", str(to)]
    )

    assert code == 0
    assert lines(capsys) == [{"wrote": str(to), "num_tensors": 6}]
    assert same_tensors(torch.load(to), small_model())


def test_restore_takes_a_pattern_and_other_names(run_dir, tmp_path):
    to = tmp_path / "round.pt"
    arguments = [str(run_dir), "--node", "server", "--round", "3", "--to", str(to)]

    restore_main([*arguments, "--tensors", "conv.*", "--map", "conv.bias=b"])

    assert list(torch.load(to)) == ["conv.weight", "b"]


def test_a_dry_run_writes_nothing(run_dir, tmp_path, capsys):
    to = tmp_path / "round.pt"
    arguments = [str(run_dir), "--node", "server", "--round", "3", "--to", str(to)]

    restore_main([*arguments, "--dry-run"])

    assert lines(capsys) == [{"would_write": str(to), "num_tensors": 6}]
    assert not to.exists()


def test_a_node_without_a_store_is_an_error_that_names_those_with_one(run_dir):
    with pytest.raises(NotARunError, match="it has `client-1`, `server`"):
        restore_main([str(run_dir), "--node", "x", "--round", "3", "--to", "x.pt"])


def test_a_run_with_checkpoints_is_told_to_resume(tmp_path):
    (tmp_path / "checkpoints").mkdir()

    with pytest.raises(NotARunError) as caught:
        restore_main([str(tmp_path), "--node", "x", "--round", "3", "--to", "x.pt"])

    assert caught.value.hint == f"opsdash resume {tmp_path}"


@pytest.mark.parametrize("node", ["../server", "", "a/b", "-x"])
def test_a_node_cannot_lead_out_of_the_run(run_dir, node):
    with pytest.raises(NotARunError, match="no node's name"):
        restore_main([str(run_dir), f"--node={node}", "--round", "3", "--to", "x.pt"])


def test_a_round_that_is_not_there_is_an_error(run_dir, tmp_path):
    with pytest.raises(NoSuchRoundError):
        restore_main([str(run_dir), "--node", "server", "--round", "9", "--to", "x.pt"])


def test_wrong_arguments_are_refused(run_dir):
    with pytest.raises(UsageError, match="OLD=NEW"):
        restore_main([str(run_dir), "--node", "s", "--round", "1", "--map", "x"])


@pytest.mark.parametrize(
    "command", ["restore", "repair", "prune", "diff", "export-foreign"]
)
def test_wrong_usage_does_not_end_as_damage_does(command, capsys):
    assert main([command, "--nonsense"]) == 64

    assert f"hint: python -m trainer {command} --help" in capsys.readouterr().err


def test_repair_mends_all_stores_of_a_run(run_dir, capsys):
    path = store_path(run_dir)
    with ChunkStore.open(path) as store:
        digest = store.layout(3).chunks[0].digest
    lose_chunk(path, digest)

    code = repair_main([str(run_dir)])

    assert code == 0
    assert lines(capsys) == [
        {"node": "client-1", "repaired": [], "dropped": 0, "left": []},
        {"node": "server", "repaired": [digest], "dropped": 0, "left": []},
    ]


def test_what_is_left_makes_the_exit_code(run_dir, capsys):
    for node in ("server", "client-1"):
        path = store_path(run_dir, node)
        with ChunkStore.open(path) as store:
            digest = store.layout(3).chunks[0].digest
        lose_chunk(path, digest)

    code = repair_main([str(run_dir), "--node", "server", "--progress"])

    assert code == 2
    *progress, result = lines(capsys)
    assert progress[-1]["done_bytes"] == progress[-1]["total_bytes"]
    assert len(result["left"]) == 1


def test_prune_keeps_the_newest_rounds_of_all_stores(run_dir, capsys):
    with ChunkStore.open(store_path(run_dir)) as store:
        store.put_round(4, small_model(1))

    code = prune_main([str(run_dir), "--keep-rounds", "1"])

    assert code == 0
    assert [(line["node"], line["pruned"]) for line in lines(capsys)] == [
        ("client-1", []),
        ("server", [3]),
    ]
    with ChunkStore.open(store_path(run_dir)) as store:
        assert [row.round_num for row in store.rounds()] == [4]


def test_a_prune_that_would_keep_nothing_is_refused(run_dir):
    with pytest.raises(UsageError, match="must be 1 or more"):
        prune_main([str(run_dir), "--keep-rounds", "0"])


def test_a_run_without_stores_cannot_be_repaired(tmp_path):
    with pytest.raises(NotARunError, match="no chunk stores"):
        repair_main([str(tmp_path)])


@pytest.fixture
def foreign(tmp_path):
    path = tmp_path / "client_1_chunks.db"
    OriginalStore(path).save({"w": torch.arange(20.0)}, 1, 4)
    return path


def test_foreign_lists_rounds_and_chunks(foreign, capsys):
    foreign_main([str(foreign)])
    foreign_main([str(foreign), "--round", "1"])

    first, *chunks = lines(capsys)
    assert (first["round_num"], first["num_chunks"]) == (1, 4)
    assert [chunk["tensors"] for chunk in chunks] == [["w"]] * 4


def test_foreign_exports_a_round(foreign, tmp_path):
    to = tmp_path / "x.pt"

    foreign_main([str(foreign), "--round", "1", "--to", str(to)])

    assert torch.equal(torch.load(to)["w"], torch.arange(20.0))


@pytest.mark.parametrize(
    "arguments", [["--to", "x.pt"], ["--round", "1", "--to", "x.safetensors"]]
)
def test_foreign_refuses_what_it_cannot_do(foreign, arguments):
    with pytest.raises(UsageError, match="--to"):
        foreign_main([str(foreign), *arguments])


def test_diff_says_how_two_rounds_differ(run_dir, capsys):
    changed = small_model()
    changed["conv.bias"] = changed["conv.bias"] + torch.tensor([3.0, *[0.0] * 7])
    with ChunkStore.open(store_path(run_dir)) as store:
        store.put_round(4, changed)

    diff_main([str(run_dir), "--node", "server", "--rounds", "3", "4"])
    at_one_node = lines(capsys)
    nodes = ["--node", "client-1", "--other-node", "server"]
    diff_main([str(run_dir), *nodes, "--rounds", "3", "4"])

    states = {tensor["name"]: tensor["state"] for tensor in at_one_node}
    assert states == {**dict.fromkeys(small_model(), "same"), "conv.bias": "changed"}
    (tensor,) = (t for t in at_one_node if t["state"] == "changed")
    assert tensor["l2"] == pytest.approx(3.0)
    assert tensor["num_changed_chunks"] == 1
    assert lines(capsys) == at_one_node


def test_a_round_to_compare_with_must_be_there(run_dir):
    with pytest.raises(NoSuchRoundError):
        diff_main([str(run_dir), "--node", "server", "--rounds", "3", "4"])
