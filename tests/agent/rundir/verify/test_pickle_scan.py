import collections
import pickle
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.rundir.verify.pickle_scan import NotAPickleError, sketch_pickle
from tests.agent.rundir.verify.archives import contents, saved


def pickle_of(state, **options):
    return dict(contents(saved(state, **options)))["data.pkl"]


class Wrapped:
    def __init__(self):
        self.inner = {"w": torch.ones(2)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_named_by_their_path(protocol):
    weight = torch.nn.Parameter(torch.ones(3))
    state = {
        "model": collections.OrderedDict(weight=weight, bias=torch.zeros(2)),
        "tied": [weight, weight.view(1, 3)],
        "rng": ({"torch": torch.get_rng_state()},),
        5: torch.ones(2, dtype=torch.float8_e4m3fn),
        "object": Wrapped(),
    }

    names = sketch_pickle(pickle_of(state, pickle_protocol=protocol)).tensor_names()

    assert list(names.values()) == [
        "model.weight",
        "model.bias",
        "rng.0.torch",
        "5",
        "object.inner.w",
    ]


def test_storages_have_their_sizes():
    dtypes = [torch.bool, torch.bfloat16, torch.complex128, torch.uint16, torch.int64]
    state = [torch.zeros(3, dtype=dtype) for dtype in dtypes]

    storages = sketch_pickle(pickle_of(state)).storages

    sizes = [storage.num_bytes for storage in storages.values()]
    assert sizes == [3 * dtype.itemsize for dtype in dtypes]


def test_what_follows_the_pickle_is_not_read():
    data = pickle.dumps([1, 2])

    sketch = sketch_pickle(data + b"anything")

    assert sketch.size == len(data)


PLAIN = st.recursive(
    st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.booleans(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.frozensets(st.integers())
        | st.sets(st.text())
    ),
)


@given(PLAIN, st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_every_pickle_of_plain_values_can_be_followed(value, protocol):
    data = pickle.dumps(value, protocol)

    assert sketch_pickle(data).size == len(data)


def test_a_cut_pickle_says_that_it_ends_early():
    data = pickle_of({"model": {"w": torch.ones(3)}})

    for size in range(len(data)):
        with pytest.raises(NotAPickleError) as caught:
            sketch_pickle(data[:size])

        assert caught.value.ends_early


def test_damaged_pickles_are_refused_or_followed_and_never_crash():
    data = pickle_of({"model": {"w": torch.ones(3)}, "step": 3})
    rng = random.Random(0)

    for _ in range(3000):
        broken = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            names = sketch_pickle(bytes(broken)).tensor_names()
        except NotAPickleError:
            continue

        assert all(isinstance(name, str) for name in names.values())


def test_a_pickle_that_multiplies_itself_stays_small():
    doubling = b"".join(b"(h%ch%ct\x94" % (i, i) for i in range(200))
    bomb = b"\x80\x04]\x94" + doubling + b"."

    names = sketch_pickle(bomb).tensor_names()

    assert names == {}


def test_deep_nesting_is_followed_without_recursion():
    depth = 100_000
    data = b"\x80\x02" + b"(" * depth + b"K\x01" + b"t" * depth + b"."

    assert sketch_pickle(data).tensor_names() == {}


def test_a_pickle_without_end_is_given_up():
    with pytest.raises(NotAPickleError, match="opcodes"):
        sketch_pickle(b"\x80\x02" + b"N0" * 1_100_000 + b"N.")
