"""What a federation learns: the model, its data and its loss.

Model and shares are functions of the configuration alone, so that the server
and a client on another host agree on them without exchanging an example.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.rundir.errors import RunDirError
from trainer.data.digits import federated_digits
from trainer.data.examples import Examples, FederatedExamples, held_out_parts
from trainer.data.folder import TEST_NAME, load_folder
from trainer.data.leaf import (
    is_leaf,
    load_leaf_client,
    load_leaf_everything,
    load_leaf_test,
)
from trainer.data.linear import federated_lines
from trainer.federated.config import (
    BUILT_IN,
    LINEAR,
    FederatedConfig,
    client_keys,
)
from trainer.models.cnn import DigitNet

_AT_ONCE = 1024
"""Examples that a model is given at once where nothing is learnt from them."""
_CALIBRATION_FRAC = 1 / 3
"""Of the held-out images of a file, for normalisation statistics."""
_FEWEST_CALIBRATION = 32
"""With fewer the model is measured as it was initialised."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What goes in and what comes out."""

    inputs: tuple[int, ...]
    """(channels, height, width), or (features,)."""
    num_classes: int
    """0: one number is predicted."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a client is told to train."""

    config: FederatedConfig
    shape: Shape


@dataclass(frozen=True)
class ServerData:
    """What the server knows of the data."""

    shape: Shape
    calibration: Examples | None
    """Normalisation statistics are taken from it; None: there is none."""
    held_out: Examples | None
    """Accuracy is measured on it; None: there is none."""


@dataclass(frozen=True)
class ClientData:
    """What one client has."""

    training: Examples
    held_out: Examples | None


class FlatNet(nn.Module):
    """One linear layer."""

    def __init__(self, num_features: int, num_outputs: int) -> None:
        """Make a linear model; its layer is called `fc`."""
        super().__init__()
        self.fc = nn.Linear(num_features, num_outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """Return (num, num_outputs) for (num, num_features)."""
        outputs: Tensor = self.fc(rows)
        return outputs


def make_model(shape: Shape, seed: int) -> nn.Module:
    """Return the model as every node initialises it.

    The program's own random numbers are left as they are.

    Raises:
        RunDirError: images are not square, or too small.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if len(shape.inputs) == 1:
            return FlatNet(shape.inputs[0], max(1, shape.num_classes))
        channels, height, width = shape.inputs
        if height != width or height < 4:
            raise RunDirError(
                f"images of {height} x {width} are not square, 4 x 4 or more"
            )
        return DigitNet(channels=channels, side=height, num_classes=shape.num_classes)


def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss: squared error for numbers, else cross entropy."""
    if labels.is_floating_point():
        return functional.mse_loss(outputs, labels)
    return functional.cross_entropy(outputs, labels)


@torch.no_grad()
def measure(model: nn.Module, examples: Examples) -> tuple[float, float | None]:
    """Return loss and accuracy of a model; numbers have no accuracy.

    The model is left in the mode that it was in.
    """
    was_training = model.training
    model.eval()
    try:
        parts = torch.split(examples.inputs, _AT_ONCE)
        outputs = torch.cat([model(part) for part in parts])
    finally:
        model.train(was_training)
    loss = float(loss_of(outputs, examples.labels))
    if examples.labels.is_floating_point():
        return loss, None
    right = outputs.argmax(1) == examples.labels
    return loss, float(right.to(torch.float64).mean())


def server_data(config: FederatedConfig) -> ServerData:
    """Return what the server measures with.

    Raises:
        RunDirError: the data cannot be read, or does not show its shape.
    """
    if config.data in BUILT_IN:
        split = _built_in(config)
        shape = Shape(
            inputs=tuple(split.held_out.inputs.shape[1:]), num_classes=split.num_classes
        )
        return ServerData(shape, split.calibration, split.held_out)
    path = Path(config.data)
    held_out = load_leaf_test(path) if is_leaf(path) else load_folder(path, TEST_NAME)
    known = [examples for examples in (held_out, *_visible(config, path)) if examples]
    if not known:
        raise RunDirError(
            f"`{path}` has neither `{TEST_NAME}.npz` nor a client's file, so the "
            "model's shape is not known",
            hint="--data digits",
        )
    num_classes = 1 + max(int(examples.labels.max()) for examples in known)
    shape = Shape(
        inputs=tuple(known[0].inputs.shape[1:]),
        num_classes=config.num_classes or num_classes,
    )
    for examples in known:
        check_fits(examples, shape, f"examples in `{path}`")
    calibration, measured = _set_apart(held_out, config.seed)
    return ServerData(shape, calibration, measured)


def client_data(config: FederatedConfig, key: str, path: Path | None) -> ClientData:
    """Return what one client trains on.

    Args:
        config: As the server gave it.
        key: The client's.
        path: Where this host keeps the data; None: where the server does.

    Raises:
        RunDirError: there is no share for this client.
    """
    if path is None and config.data in BUILT_IN:
        split = _built_in(config)
        return ClientData(split.clients[_known(config, key)], split.held_out)
    place = path or Path(config.data)
    if is_leaf(place):
        index, num = client_keys(config).index(_known(config, key)), config.clients
        return ClientData(*load_leaf_client(place, index, num))
    mine = load_folder(place, key)
    if mine is None:
        raise RunDirError(f"`{place}` has neither `{key}.npz` nor `{key}.csv`")
    return ClientData(mine, load_folder(place, TEST_NAME))


def check_fits(examples: Examples, shape: Shape, whose: str) -> None:
    """Make sure that a model of this shape can take the examples.

    Raises:
        RunDirError: they have another size, or a class that it does not know.
    """
    found = tuple(examples.inputs.shape[1:])
    if found != shape.inputs:
        raise RunDirError(
            f"{whose} are of shape {list(found)}, the model takes {list(shape.inputs)}"
        )
    greatest = 0 if examples.labels.is_floating_point() else int(examples.labels.max())
    if shape.num_classes and greatest >= shape.num_classes:
        raise RunDirError(
            f"{whose} hold class {greatest}, the model knows 0 to "
            f"{shape.num_classes - 1}",
            hint=f"--num-classes {greatest + 1}   # of the server",
        )


def _set_apart(
    held_out: Examples | None, seed: int
) -> tuple[Examples | None, Examples | None]:
    """Set some held-out images aside for normalisation statistics.

    Rows of numbers need none: their model does not normalise.
    """
    if held_out is None or held_out.inputs.ndim == 2:
        return None, held_out
    frac = min(_CALIBRATION_FRAC, _AT_ONCE / len(held_out))
    (apart,), rest = held_out_parts(len(held_out), [frac], seed)
    if len(apart) < _FEWEST_CALIBRATION:
        return None, held_out
    return held_out.take(apart), held_out.take(rest)


def _built_in(config: FederatedConfig) -> FederatedExamples:
    keys = client_keys(config)
    if config.data == LINEAR:
        return federated_lines(keys, seed=config.seed)
    try:
        return federated_digits(keys, alpha=config.alpha, seed=config.seed)
    except ValueError as error:
        raise RunDirError(str(error), hint="--alpha 1") from error


def _known(config: FederatedConfig, key: str) -> str:
    """Return the key if the data was dealt to it."""
    keys = client_keys(config)
    if key not in keys:
        raise RunDirError(
            f"`{config.data}` is shared among `{keys[0]}` to `{keys[-1]}`, "
            f"there is no share for `{key}`",
            hint="--data FOLDER   # with this client's own examples",
        )
    return key


def _visible(config: FederatedConfig, path: Path) -> list[Examples]:
    """Return the clients' examples as far as this host can see them."""
    keys = client_keys(config)
    if is_leaf(path):
        return [load_leaf_everything(path, len(keys))]
    found = [load_folder(path, key) for key in keys]
    return [examples for examples in found if examples is not None]
