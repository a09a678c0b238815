import json
import os

from hypothesis import given
from hypothesis import strategies as st

from agent.rundir.readable import readable

texts = st.text(st.characters(codec=None, exclude_categories=())) | st.binary().map(
    os.fsdecode
)
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)


@given(values)
def test_every_value_becomes_one_that_can_be_written(value):
    made = readable(value)

    json.dumps(made, ensure_ascii=False).encode()
    assert readable(made) == made


@given(st.text())
def test_what_can_be_written_stays_as_it_is(text):
    assert readable((text, [text])) == (text, [text])
