import pytest

from agent.rundir.layout import MANIFEST_NAME
from agent.rundir.manifest import encode_unsealed, parse_manifest
from agent.rundir.seal import is_as_written, is_broken, seal
from tests.agent.rundir.verify.archives import write_small_checkpoint


@pytest.fixture
def encoded(tmp_path):
    write_small_checkpoint(tmp_path / "c", sealed=False)
    return (tmp_path / "c" / MANIFEST_NAME).read_bytes()


def test_a_sealed_manifest_says_the_same(encoded, tmp_path):
    sealed = seal(encoded)

    assert parse_manifest(sealed, tmp_path) == parse_manifest(encoded, tmp_path)
    assert is_as_written(sealed, encoded)
    assert not is_broken(sealed)


def test_any_other_byte_breaks_the_seal(encoded):
    sealed = seal(encoded)

    unnoticed = []
    for offset in range(len(sealed)):
        broken = bytearray(sealed)
        broken[offset] ^= 2
        if is_as_written(bytes(broken), encoded):
            unnoticed.append(offset)

    assert unnoticed == []


def test_without_a_seal_the_encoding_is_compared(encoded, tmp_path):
    again = encode_unsealed(parse_manifest(encoded, tmp_path))

    assert is_as_written(encoded, again)
    assert not is_as_written(encoded.replace(b": ", b":", 1), again)


def test_only_an_encoded_manifest_can_be_sealed():
    with pytest.raises(ValueError, match="not an encoded manifest"):
        seal(b"{}")
