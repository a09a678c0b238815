"""Messages arrive as they were sent; anything else is refused, never raised through."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.federated.messages import (
    BadMessageError,
    Chunk,
    Goodbye,
    Hello,
    Model,
    Over,
    Ready,
    Report,
    Task,
    UpdateOffer,
    Verdict,
    Want,
    Welcome,
    decode_from_client,
    decode_from_server,
    encode,
)

FROM_CLIENT = [
    Hello(1, "s"),
    Ready(),
    Want(("a", "b")),
    Chunk("d", "float32", b"\0\1"),
    UpdateOffer(
        round_num=3,
        attempt=1,
        base_digest="x",
        layout="{}",
        report=Report(num_examples=5, loss=None, accuracy_frac=0.5),
    ),
    Goodbye("stopped"),
]
FROM_SERVER = [
    Welcome(protocol=1, run_id="r", attempt=2, settings=msgspec.Raw(b"\xa1x")),
    Model(round_num=0, digest="d", layout="{}", acked_round=None),
    Task(round_num=1, attempt=1, base_digest="d", left_ns=-5),
    Want(()),
    Chunk("d", "float32", b""),
    Verdict(round_num=1, refusal="late"),
    Over("completed"),
]


@pytest.mark.parametrize("message", FROM_CLIENT, ids=lambda m: type(m).__name__)
def test_what_a_client_sends_arrives(message):
    assert decode_from_client(encode(message)) == message


@pytest.mark.parametrize("message", FROM_SERVER, ids=lambda m: type(m).__name__)
def test_what_the_server_sends_arrives(message):
    found = decode_from_server(encode(message))

    assert type(found) is type(message)
    assert encode(found) == encode(message)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    for decode in (decode_from_client, decode_from_server):
        try:
            decode(data)
        except BadMessageError:
            continue


@given(st.sampled_from(FROM_CLIENT + FROM_SERVER), st.data())
def test_a_torn_or_flipped_message_is_a_message_or_refused(message, data):
    raw = bytearray(encode(message))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))

    for decode in (decode_from_client, decode_from_server):
        for damaged in (bytes(raw), encode(message)[:place]):
            try:
                decode(damaged)
            except BadMessageError:
                continue


def test_a_message_that_is_nested_without_end_is_refused():
    known = msgspec.msgpack.encode({"type": "ready"})
    endless = b"\x82" + known[1:] + b"\xa1x" + b"\x91" * 100_000 + b"\xc0"

    with pytest.raises(BadMessageError, match="a client sent no message"):
        decode_from_client(endless)


def test_a_message_of_the_other_side_is_refused():
    with pytest.raises(BadMessageError):
        decode_from_client(encode(Over("completed")))
    with pytest.raises(BadMessageError):
        decode_from_server(encode(Ready()))


def test_negative_counts_are_refused():
    offer = FROM_CLIENT[4]
    report = msgspec.structs.replace(offer.report, num_examples=-1)

    with pytest.raises(BadMessageError, match="a client sent no message"):
        decode_from_client(encode(msgspec.structs.replace(offer, report=report)))


@pytest.mark.parametrize("count", [2**62 + 1, 2**64 - 1])
@pytest.mark.parametrize("name", ["num_examples", "compute_ns", "fetch_ns"])
def test_counts_that_nothing_could_add_up_are_refused(name, count):
    offer = FROM_CLIENT[4]
    report = msgspec.structs.replace(offer.report, **{name: count})

    with pytest.raises(BadMessageError, match="a client sent no message"):
        decode_from_client(encode(msgspec.structs.replace(offer, report=report)))


@pytest.mark.parametrize("message", [Hello(1, "s" * 1001), Goodbye("r" * 1001)])
def test_words_that_would_fill_a_disk_are_refused(message):
    with pytest.raises(BadMessageError, match="a client sent no message"):
        decode_from_client(encode(message))
