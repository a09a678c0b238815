import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from agent.rundir.chunks.errors import DamagedChunkError, NoSuchTensorError
from agent.rundir.chunks.reader import ChunkStoreReader
from tests.trainer.chunks.store_faults import (
    flip_bit,
    same_tensors,
    small_model,
    store_path,
)
from trainer.chunks.export import CannotExportError, export_round
from trainer.chunks.split import FlatSplit, TensorSplit
from trainer.chunks.store import ChunkStore

NUM_ELEMENTS = 40_000_000


@pytest.fixture
def reader(tmp_path):
    path = store_path(tmp_path)
    model = small_model()
    model["tied"] = model["conv.weight"]
    with ChunkStore.open(path) as store:
        store.put_round(
            1,
            model,
            buffers=["bn.running_mean"],
            transient=["bn.running_mean"],
            split=FlatSplit(7),
        )
        with store.reader() as opened:
            yield opened


def expected(names=None):
    model = small_model()
    model["tied"] = model["conv.weight"]
    return {
        name: tensor
        for name, tensor in model.items()
        if (name in names if names else name != "bn.running_mean")
    }


def test_a_pt_file_is_a_state_dict(reader, tmp_path):
    to = tmp_path / "round.pt"

    count = export_round(reader, 1, to)
    loaded = torch.load(to, weights_only=True)

    assert count == 6
    assert same_tensors(loaded, expected())
    assert loaded["tied"].data_ptr() == loaded["conv.weight"].data_ptr()


def test_a_safetensors_file_is_read_by_its_own_library(reader, tmp_path):
    to = tmp_path / "round.safetensors"

    export_round(reader, 1, to)
    loaded = load_file(to)

    assert same_tensors({name: loaded[name] for name in expected()}, expected())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_pattern_writes_what_it_names(reader, tmp_path, suffix):
    to = tmp_path / f"part{suffix}"

    assert export_round(reader, 1, to, "bn.*") == 2
    loaded = torch.load(to) if suffix == ".pt" else load_file(to)

    assert set(loaded) == {"bn.running_mean", "bn.num_batches_tracked"}
    assert torch.equal(loaded["bn.running_mean"], small_model()["bn.running_mean"])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_tensors_can_be_written_under_other_names(reader, tmp_path, suffix):
    to = tmp_path / f"renamed{suffix}"

    export_round(reader, 1, to, "conv.*", {"conv.bias": "stem.bias"})
    loaded = torch.load(to) if suffix == ".pt" else load_file(to)

    assert set(loaded) == {"conv.weight", "stem.bias"}
    assert torch.equal(loaded["stem.bias"], small_model()["conv.bias"])


def test_two_tensors_under_one_name_are_refused(reader, tmp_path):
    with pytest.raises(CannotExportError, match="the same name"):
        export_round(reader, 1, tmp_path / "x.pt", None, {"conv.bias": "conv.weight"})


def test_a_name_that_is_not_written_cannot_be_renamed(reader, tmp_path):
    with pytest.raises(NoSuchTensorError, match="nowhere"):
        export_round(reader, 1, tmp_path / "x.pt", None, {"nowhere": "x"})


def test_a_dtype_that_safetensors_lacks_is_named(tmp_path):
    with ChunkStore.open(store_path(tmp_path)) as store:
        store.put_round(1, {"t": torch.ones(2, dtype=torch.complex128)})

        with (
            store.reader() as reader,
            pytest.raises(CannotExportError, match="`t`: it is complex128"),
        ):
            export_round(reader, 1, tmp_path / "x.safetensors")


def test_other_suffixes_are_refused(reader, tmp_path):
    with pytest.raises(CannotExportError, match="ends neither"):
        export_round(reader, 1, tmp_path / "x.onnx")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damage_leaves_the_file_that_was_there(tmp_path, suffix):
    path = store_path(tmp_path)
    with ChunkStore.open(path) as store:
        store.put_round(1, small_model())
        digest = store.layout(1).chunks[-1].digest
    flip_bit(path, digest)
    to = tmp_path / f"round{suffix}"
    to.write_bytes(b"old")

    with ChunkStoreReader(path) as reader, pytest.raises(DamagedChunkError):
        export_round(reader, 1, to)

    assert to.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_a_directory_that_is_not_there_is_said_so(reader, tmp_path):
    with pytest.raises(CannotExportError, match="No such file"):
        export_round(reader, 1, tmp_path / "gone" / "x.pt")


@pytest.fixture(
    scope="module", params=[TensorSplit(), FlatSplit(10)], ids=["tensor", "flat"]
)
def big_store(request, tmp_path_factory):
    path = store_path(tmp_path_factory.mktemp("big"))
    model = {f"t{i}": torch.full((NUM_ELEMENTS // 4,), float(i)) for i in range(4)}
    with ChunkStore.open(path) as store:
        store.put_round(1, model, split=request.param)
    return path


@pytest.mark.parametrize(
    ("action", "least", "most"),
    [
        ("load_tensors(reader, 1)", 0.95, 1.2),
        ("export_round(reader, 1, pathlib.Path(sys.argv[1]) / 'x.pt')", 0.95, 1.2),
        (
            "export_round(reader, 1, pathlib.Path(sys.argv[1]) / 'x.safetensors')",
            0.01,
            0.4,
        ),
    ],
    ids=["state_dict", "pt", "safetensors"],
)
def test_restoring_needs_little_more_memory_than_the_model(
    big_store, tmp_path, action, least, most
):
    script = (
        "import sys, pathlib, re\n"
        "from agent.rundir.chunks.reader import ChunkStoreReader\n"
        "from trainer.chunks.export import export_round\n"
        "from trainer.chunks.restore import load_tensors\n"
        # Not ru_maxrss: a process starts with that of the one that forked it.
        "status = pathlib.Path('/proc/self/status')\n"
        "pattern = r'VmHWM:\\s+(\\d+) kB'\n"
        "peak = lambda: int(re.search(pattern, status.read_text())[1]) * 1024\n"
        "reader = ChunkStoreReader(pathlib.Path(sys.argv[2]))\n"
        "before = peak()\n"
        f"kept = {action}\n"
        "print(peak() - before)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(big_store)],
        capture_output=True,
        text=True,
        check=True,
    )

    ratio = int(done.stdout) / (NUM_ELEMENTS * 4)
    print(ratio)
    assert least < ratio < most
