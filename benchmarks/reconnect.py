"""What stale momentum costs a client that was cut off, and what a reset saves.

Three clients learn handwritten digits with SGD and momentum 0.9, six steps a
round. Client 1 is cut off in round 5 and comes back in round 12, once with the
optimizer state that it had (`keep`), once with that state cleared (`reset`),
everything else equal. Loss is that of client 1's model on its own examples
after its local training, and that of the global model on held-out digits.
With examples dealt at random the stale momentum throws the client off; the
more its classes differ from the others' (small alpha), the more the old
direction is its own anyway, and the less its own loss shows.

    python benchmarks/reconnect.py [--seeds 20] [--picture docs/reconnect.png]
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from benchmarks.table import Row, print_table
from trainer.federated.aggregate import Pull, Update, fedavg, pulls
from trainer.federated.config import FederatedConfig, client_keys
from trainer.federated.learner import Learner
from trainer.federated.problem import (
    ServerData,
    client_data,
    make_model,
    measure,
    server_data,
)
from trainer.federated.workbench import Workbench

ROOT = Path(__file__).resolve().parents[1]
CUT, BACK, ROUNDS = 5, 12, 16
CLIENT = "client-1"
POLICIES = ("keep", "reset")
ALPHA = 100.0
"""Of the Dirichlet distribution: examples are dealt almost at random."""
OTHER_ALPHAS = (1.0, 0.3)

Runs = dict[str, list[list["Round"]]]


class Round(NamedTuple):
    """One round of one run."""

    client_loss: float | None
    """None: client 1 was away."""
    global_loss: float
    pull: Pull | None
    num_resets: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "reconnect.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = run_all(ALPHA, options.seeds)
    draw(runs, options.picture)
    others = [
        client_loss(run_all(alpha, options.seeds), alpha) for alpha in OTHER_ALPHAS
    ]
    return print_table([*rows(runs), *others])


def run_all(alpha: float, num_seeds: int) -> Runs:
    runs = {
        policy: [list(federation(policy, seed, alpha)) for seed in range(num_seeds)]
        for policy in POLICIES
    }
    assert all(run[BACK - 1].num_resets == 1 for run in runs["reset"])
    assert not any(run[BACK - 1].num_resets for run in runs["keep"])
    return runs


def federation(policy: str, seed: int, alpha: float) -> Iterator[Round]:
    """Run one federation in this process; what is said of it is true of a real one."""
    config = FederatedConfig(
        policy=policy, seed=seed, alpha=alpha, local_steps=6, lr=0.1, momentum=0.9
    )
    data = server_data(config)
    shares = {key: client_data(config, key, None) for key in client_keys(config)}
    benches = {
        key: Workbench(Learner(config, data.shape, key, share), config)
        for key, share in shares.items()
    }
    model = copied(benches[CLIENT])
    for round_num in range(1, ROUNDS + 1):
        away = CUT <= round_num < BACK
        num_resets, updates, client_loss = 0, [], None
        for key, bench in benches.items():
            if key == CLIENT and away:
                continue
            if key == CLIENT and round_num == BACK:
                reset = bench.settle(
                    server_acked=CUT - 1, attempt=1, last_round=BACK - 1
                )
                num_resets += reset is not None
            bench.prepare(round_num, model)
            updates.append(trained(bench, key, round_num))
            if key == CLIENT:
                client_loss = measure(bench.local.model, shares[key].training)[0]
        pulled = pulls(model, updates, list(model)).get(CLIENT)
        model = fedavg(model, updates, list(model)).tensors
        for update in updates:
            benches[update.client].acknowledge(round_num)
        yield Round(client_loss, held_out_loss(model, data), pulled, num_resets)


def trained(bench: Workbench, key: str, round_num: int) -> Update:
    done = bench.train(
        round_num, 1, "base", is_cancelled=lambda: False, on_step=lambda _: None
    )
    return Update(
        client=key, tensors=copied(bench), num_examples=done.report.num_examples
    )


def copied(bench: Workbench) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in bench.local.averaged_tensors().items()}


def held_out_loss(tensors: dict[str, Tensor], data: ServerData) -> float:
    model = make_model(data.shape, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
        for module in model.modules():
            if isinstance(module, _NormBase):
                module.momentum = None
        model(data.calibration.inputs)
    return measure(model, data.held_out)[0]


def rows(runs: Runs) -> Iterator[Row]:
    """Compare the first round back, over all seeds."""
    back = first_back(runs)
    pairs = list(zip(back["reset"], back["keep"], strict=True))
    lower = sum(reset.client_loss < keep.client_loss for reset, keep in pairs)
    yield client_loss(runs, ALPHA, least=1.2)
    yield Row(
        "seeds in which that is lower",
        f"reset: {lower} of {len(pairs)}",
        f"keep: {len(pairs) - lower}",
        target="most",
        is_met=2 * lower > len(pairs),
    )
    lengths = {p: median([one.pull.norm for one in back[p]]) for p in POLICIES}
    yield compared("length of its update in that round", lengths)
    cosines = {p: median([one.pull.cosine for one in back[p]]) for p in POLICIES}
    yield compared("cosine of that update to the others'", cosines)
    losses = {p: median([one.global_loss for one in back[p]]) for p in POLICIES}
    yield compared("held-out loss of the global model after it", losses)


def client_loss(runs: Runs, alpha: float, *, least: float | None = None) -> Row:
    back = first_back(runs)
    losses = {p: median([one.client_loss for one in back[p]]) for p in POLICIES}
    claim = f"client 1's loss in its first round back, alpha {alpha:g}"
    return compared(claim, losses, least=least)


def first_back(runs: Runs) -> dict[str, list[Round]]:
    return {policy: [run[BACK - 1] for run in runs[policy]] for policy in POLICIES}


def median(values: list[float]) -> float:
    return statistics.median(values)


def compared(claim: str, found: dict[str, float], *, least: float | None = None) -> Row:
    ratio = found["keep"] / found["reset"]
    return Row(
        f"{claim}, median",
        f"reset {found['reset']:.3f}",
        f"keep {found['keep']:.3f}",
        ratio=f"{ratio:.2f}x",
        target="" if least is None else f"≥ {least:g}x",
        is_met=None if least is None else ratio >= least,
    )


SCALE = 2
WIDTH, HEIGHT, MARGIN, GAP = 960, 400, 56, 40
TOP, TICK = 1.25, 0.25
"""Of the loss axis; what is higher is drawn at its edge."""
PAPER, INK, GRID, AWAY = "#ffffff", "#24292f", "#d8dee4", "#f1f3f5"
COLOURS = {"keep": "#c2410c", "reset": "#1d4ed8"}
DASHES = {"keep": 10, "reset": 0}


class Panel(NamedTuple):
    """A chart's place and the values that its edges stand for."""

    left: float
    width: float
    top_value: float

    def place(self, round_num: float, value: float) -> tuple[float, float]:
        """Return where a value of a round is drawn."""
        x = self.left + (round_num - 1) / (ROUNDS - 1) * self.width
        height = HEIGHT - 2 * MARGIN
        y = HEIGHT - MARGIN - min(value, self.top_value) / self.top_value * height
        return x * SCALE, y * SCALE


def draw(runs: Runs, path: Path) -> None:
    """Write the picture: both losses per round, median and middle half of the seeds."""
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    canvas = ImageDraw.Draw(image, "RGBA")
    width = (WIDTH - 2 * MARGIN - GAP) / 2
    for index, (title, name) in enumerate(
        (
            ("client 1, own examples, after local training", "client_loss"),
            ("global model, held-out digits", "global_loss"),
        )
    ):
        curves = {p: quartiles(runs[p], name) for p in POLICIES}
        panel = Panel(MARGIN + index * (width + GAP), width, TOP)
        draw_panel(canvas, panel, title, curves)
    image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(path, optimize=True)


def quartiles(
    runs: list[list[Round]], name: str
) -> dict[int, tuple[float, float, float]]:
    found = {}
    for round_num in range(1, ROUNDS + 1):
        values = [getattr(run[round_num - 1], name) for run in runs]
        if None not in values:
            low, middle, high = statistics.quantiles(values, n=4)
            found[round_num] = (low, middle, high)
    return found


def draw_panel(
    canvas: ImageDraw.ImageDraw,
    panel: Panel,
    title: str,
    curves: dict[str, dict[int, tuple[float, float, float]]],
) -> None:
    canvas.rectangle(
        (*panel.place(CUT - 0.5, panel.top_value), *panel.place(BACK - 0.5, 0)), AWAY
    )
    label(canvas, (panel.left, 12), f"Loss: {title}", 15)
    away = panel.place((CUT + BACK - 1) / 2, panel.top_value)
    label(canvas, (away[0] / SCALE, MARGIN + 4), "client 1 cut off", 12, anchor="ma")
    for tick in range(round(panel.top_value / TICK) + 1):
        value = tick * TICK
        left, y = panel.place(1, value)
        canvas.line((left, y, panel.place(ROUNDS, value)[0], y), GRID, SCALE)
        label(canvas, (left / SCALE - 6, y / SCALE), f"{value:.2f}", 11, anchor="rm")
    for round_num in range(1, ROUNDS + 1, 3):
        x, y = panel.place(round_num, 0)
        label(canvas, (x / SCALE, y / SCALE + 6), str(round_num), 11, anchor="ma")
    middle = panel.left + panel.width / 2
    label(canvas, (middle, HEIGHT - 22), "round", 12, anchor="ma")
    for position, (policy, curve) in enumerate(curves.items()):
        draw_curve(canvas, panel, policy, curve)
        y = MARGIN + 26 + 18 * position
        x = panel.left + panel.width - 120
        line(canvas, [(x, y), (x + 28, y)], policy, SCALE)
        label(canvas, (x + 34, y), f"{policy} momentum", 12, anchor="lm")


def draw_curve(
    canvas: ImageDraw.ImageDraw,
    panel: Panel,
    policy: str,
    curve: dict[int, tuple[float, float, float]],
) -> None:
    for part in parts(sorted(curve)):
        low = [panel.place(r, curve[r][0]) for r in part]
        high = [panel.place(r, curve[r][2]) for r in part]
        canvas.polygon([*low, *reversed(high)], COLOURS[policy] + "22")
        line(canvas, [panel.place(r, curve[r][1]) for r in part], policy, 1)


def parts(numbers: list[int]) -> Iterator[list[int]]:
    """Split where rounds are missing: nothing is drawn across a gap."""
    part: list[int] = []
    for number in numbers:
        if part and number != part[-1] + 1:
            yield part
            part = []
        part.append(number)
    yield part


def line(
    canvas: ImageDraw.ImageDraw,
    points: list[tuple[float, float]],
    policy: str,
    scale: int,
) -> None:
    """Draw a polyline, dashed for `keep`: colour is never the only difference."""
    scaled = [(x * scale, y * scale) for x, y in points]
    colour, dash = COLOURS[policy], DASHES[policy] * SCALE
    if not dash:
        canvas.line(scaled, colour, 2 * SCALE, joint="curve")
        return
    travelled = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(scaled):
        length = max(1.0, ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5)
        steps = int(length)
        for step in range(steps):
            if (travelled + step) % (1.6 * dash) < dash:
                a, b = step / length, (step + 1) / length
                canvas.line(
                    (
                        x0 + (x1 - x0) * a,
                        y0 + (y1 - y0) * a,
                        x0 + (x1 - x0) * b,
                        y0 + (y1 - y0) * b,
                    ),
                    colour,
                    2 * SCALE,
                )
        travelled += length


def label(
    canvas: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    *,
    anchor: str = "la",
) -> None:
    font = ImageFont.load_default(size * SCALE)
    x, y = place
    canvas.text((x * SCALE, y * SCALE), text, INK, font, anchor=anchor)


if __name__ == "__main__":
    sys.exit(main())
