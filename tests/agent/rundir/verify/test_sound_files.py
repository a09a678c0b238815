"""No false alarms: whatever torch can save, unharmed, is sound."""

import io
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.serialization import config

from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import Level, State
from tests.agent.rundir.verify.archives import saved, write_checkpoint

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]
RELAXED = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 9), max_size=3))
    numel = int(torch.Size(shape).numel())
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    size = max(1, numel) * dtype.itemsize
    raw = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
    if dtype is torch.bool:
        raw = raw % 2
    tensor = raw.view(dtype)[:numel].reshape(shape)
    kind = draw(st.sampled_from(["plain", "clone", "transposed", "slice", "parameter"]))
    if kind == "clone":
        return tensor.clone()
    if kind == "transposed":
        return tensor.T if tensor.dim() == 2 else tensor
    if kind == "slice":
        return tensor[1:] if tensor.dim() else tensor
    if kind == "parameter" and tensor.is_floating_point():
        return torch.nn.Parameter(tensor)
    return tensor


LEAVES = st.one_of(
    tensors(),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=40),
)
KEYS = st.one_of(st.text(max_size=12), st.integers(0, 99))
STATES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)
NAMES = st.text("abz.- _0", min_size=1, max_size=12).map(lambda name: f"m{name}.pt")


def check_sound(path: Path, state, protocol: int, alignment: int) -> None:
    with config.patch({"save.storage_alignment": alignment}):
        torch.save(state, path, pickle_protocol=protocol)

    for level in (Level.STRUCTURE, Level.CONTENT):
        verdict = verify_path(path, level)

        assert verdict.state is State.SOUND, verdict.findings
        assert verdict.findings == ()
        assert verdict.num_bytes == path.stat().st_size


def generated(max_examples: int):
    def decorate(test):
        given_inputs = given(
            state=STATES,
            protocol=st.integers(2, 5),
            alignment=st.sampled_from([64, 64, 64, 1, 8, 512, 4096]),
            name=NAMES,
        )
        return settings(max_examples=max_examples, **RELAXED)(given_inputs(test))

    return decorate


@generated(200)
def test_whatever_torch_saves_is_sound(state, protocol, alignment, name, tmp_path):
    check_sound(tmp_path / name, state, protocol, alignment)


@pytest.mark.soak
@generated(1000)
def test_a_thousand_files_are_sound(state, protocol, alignment, name, tmp_path):
    check_sound(tmp_path / name, state, protocol, alignment)


def model_and_optimizer():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()
    )
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "tied": [model[0].weight, model[0].weight],
        "optimizer": optimizer.state_dict(),
        "rng": [{"torch": torch.get_rng_state()} for _ in range(3)],
        "step": 1,
    }


def sharded_views():
    flat = torch.arange(1000.0)
    return {f"rank-{rank}": flat[rank * 250 : (rank + 1) * 250] for rank in range(4)}


def content_that_looks_like_a_descriptor():
    lookalike = b"PK\x07\x08" + bytes(range(28))
    return {"w": torch.frombuffer(bytearray(lookalike), dtype=torch.uint8)}


def content_with_a_checksum_of_zero():
    return torch.frombuffer(bytearray(b"\x9d\x0a\xd9\x6d"), dtype=torch.uint8)


STATES_BY_NAME = {
    "model and optimizer": model_and_optimizer,
    "views of one storage": sharded_views,
    "content like a data descriptor": content_that_looks_like_a_descriptor,
    "nothing": lambda: None,
    "a number": lambda: 7,
    "a sparse tensor": lambda: torch.eye(5).to_sparse(),
    "a tensor on meta": lambda: torch.empty(3, device="meta"),
    "a checksum of zero": content_with_a_checksum_of_zero,
    "a whole module": lambda: torch.nn.Linear(3, 4),
    "five hundred tensors": lambda: [torch.full((i,), i) for i in range(500)],
}


@pytest.mark.parametrize("name", STATES_BY_NAME)
def test_states_as_they_occur_are_sound(name, tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save(STATES_BY_NAME[name](), path)

    verdict = verify_path(path)

    assert verdict.state is State.SOUND, verdict.findings


def test_a_scripted_module_with_deflated_code_is_sound(tmp_path):
    path = tmp_path / "scripted.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(torch.nn.Linear(3, 4)).save(str(path))
    assert any(i.compress_type for i in zipfile.ZipFile(path).infolist())

    verdict = verify_path(path)

    assert verdict.state is State.SOUND, verdict.findings


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("megabytes", [0, 1, 9, 20])
def test_threads_and_block_borders_change_nothing(num_threads, megabytes, tmp_path):
    data = saved({"w": torch.randint(0, 255, ((megabytes << 20) + 13,)).byte()})
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    write_checkpoint(tmp_path / "step-00001200", {"state.pt": data})

    bare = verify_path(path, num_threads=num_threads)
    published = verify_path(tmp_path / "step-00001200", num_threads=num_threads)

    assert bare.state is State.SOUND, bare.findings
    assert published.state is State.SOUND, published.findings


def test_a_file_saved_without_checksums_is_said_to_have_none(tmp_path):
    path = tmp_path / "model.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(model_and_optimizer(), path)
    finally:
        torch.serialization.set_crc32_options(True)

    verdict = verify_path(path)

    assert verdict.state is State.NO_CHECKSUM
    assert verdict.exit_code == 1
    assert [f.message for f in verdict.findings] == [
        "no checksum recorded: saved with `set_crc32_options(False)`"
    ]


def test_records_whose_data_was_left_out_have_no_checksum(tmp_path):
    path = tmp_path / "model.pt"
    with torch.serialization.skip_data():
        torch.save({"a": torch.ones(50), "b": torch.ones(60)}, path)

    verdict = verify_path(path)

    assert verdict.state is State.NO_CHECKSUM
    assert "for 2 records" in verdict.findings[0].message


def test_archives_in_memory_are_what_is_on_disk():
    buffer = io.BytesIO()
    torch.save(sharded_views(), buffer)

    assert buffer.getvalue() == saved(sharded_views())
