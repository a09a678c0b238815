"""A state that could never be loaded again is refused before it is saved."""

from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.trainer.checkpoint.states import make_state, payload
from tests.trainer.small import Line, make
from trainer.checkpoint.plain import UnloadableStateError, require_loadable


@pytest.mark.parametrize(
    "value",
    [1, 1.5, "x", None, True, b"x", 1j, torch.ones(2), torch.float16, (1, [2]), {1: 2}],
)
def test_plain_values_are_taken(value):
    require_loadable({"a": [value], "b": OrderedDict(c=value)})


def test_a_whole_state_is_taken():
    require_loadable(payload(make_state()))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(0.1), "numpy.float64"),
        (np.ones(2), "numpy.ndarray"),
        (Path("x"), "pathlib.PosixPath"),
        (defaultdict(int), "collections.defaultdict"),
        (lambda: 0, "function"),
    ],
)
def test_what_only_code_can_make_is_named_by_its_path(value, kind):
    state = {"model": {"w": torch.ones(2)}, "optimizer": {"groups": [{"lr": value}]}}

    with pytest.raises(UnloadableStateError) as caught:
        require_loadable(state)

    told = f"`optimizer.groups.0.lr` is a `{kind}`, which cannot be loaded again"
    assert str(caught.value).startswith(told)


class Declared:
    """A type that a user calls safe."""


def test_a_type_that_was_declared_safe_is_taken():
    with torch.serialization.safe_globals([Declared]):
        require_loadable({"a": Declared()})


def test_a_run_is_refused_before_its_first_step(tmp_path):
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=np.float64(0.9))

    with pytest.raises(
        UnloadableStateError, match=r"param_groups.0.momentum` is a `numpy"
    ):
        make(tmp_path / "run", model=model, optimizer=optimizer).train()

    assert not (tmp_path / "run" / "checkpoints").exists()


class Remembering(Line):
    """Has state beside its tensors, which becomes odd later."""

    def __init__(self):
        super().__init__()
        self.seen = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.note = 0

    def get_extra_state(self):
        return {"note": self.note}

    def set_extra_state(self, state):
        self.note = state["note"]

    def forward(self, inputs, targets):
        self.note = np.int64(1)
        return super().forward(inputs, targets)


def test_what_becomes_odd_later_ends_the_run_at_its_first_save(tmp_path):
    with pytest.raises(UnloadableStateError, match=r"note` is a `numpy.int64`"):
        make(tmp_path / "run", model=Remembering(), save_every=2).train()
