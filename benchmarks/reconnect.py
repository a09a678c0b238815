"""What stale momentum costs a client that was cut off, and what a reset saves.

Three clients learn handwritten digits with SGD and momentum 0.9, six steps a
round. Client 1 is cut off in round 5 and comes back in round 12: with the
optimizer state that it had (`keep`), with that state shrunk for every round
missed (`decay`), or with it cleared (`reset`); all else is equal to the bit. Its
loss is that of its model on its own examples after local training, the global
one that of the averaged model on held-out digits. How much the policy matters
hangs on how the digits are dealt out, so three mixes are shown: the more a
client's classes are its own (small alpha), the more its old direction still
points where its own loss falls.

    python benchmarks/reconnect.py [--seeds 20] [--picture docs/reconnect.png]
"""

import argparse
import copy
import dataclasses
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from benchmarks.pictures.panels import Chart, Curve, Sheet, Style
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
POLICIES = ("keep", "decay", "reset")
ALPHAS = {
    100.0: "dealt almost at random",
    1.0: "classes uneven",
    0.3: "few classes each",
}
"""Of the Dirichlet distribution by which classes are dealt out to clients."""
MAIN_ALPHA = 100.0

STYLES = {
    "keep": Style("#c2410c", 10),
    "decay": Style("#15803d", 3),
    "reset": Style("#1d4ed8", 0),
}


class Round(NamedTuple):
    """One round of one run."""

    client_loss: float | None
    """None: client 1 was away."""
    global_loss: float
    cosine: float | None
    """Of client 1's update to the weighted mean of the others'."""
    norm: float | None
    """Of client 1's update."""


Runs = dict[str, list[list[Round]]]
"""By policy: the rounds of each seed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="at least 2")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "reconnect.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {alpha: run_all(alpha, options.seeds) for alpha in ALPHAS}
    draw(found, options.picture)
    return print_table(rows(found))


def run_all(alpha: float, num_seeds: int) -> Runs:
    runs: Runs = {policy: [] for policy in POLICIES}
    for seed in range(num_seeds):
        start = Federation(seed, alpha)
        before = [start.play(round_num) for round_num in range(1, BACK)]
        for policy in POLICIES:
            # All that was random has been drawn: from here on only this differs.
            after = copy.deepcopy(start)
            num_resets = after.return_with(policy)
            assert num_resets == (policy != "keep")
            rest = [after.play(round_num) for round_num in range(BACK, ROUNDS + 1)]
            runs[policy].append([*before, *rest])
    return runs


class Federation:
    """Three clients and a global model in this process, round by round."""

    def __init__(self, seed: int, alpha: float) -> None:
        self.config = FederatedConfig(
            seed=seed, alpha=alpha, local_steps=6, lr=0.1, momentum=0.9
        )
        self.data = server_data(self.config)
        keys = client_keys(self.config)
        self.shares = {key: client_data(self.config, key, None) for key in keys}
        self.benches = {
            key: Workbench(
                Learner(self.config, self.data.shape, key, share), self.config
            )
            for key, share in self.shares.items()
        }
        self.model = copied(self.benches[CLIENT])

    def return_with(self, policy: str) -> int:
        """Let client 1 find out what it missed; return how often it was reset."""
        bench = self.benches[CLIENT]
        bench._config = dataclasses.replace(self.config, policy=policy)
        return (
            bench.settle(server_acked=CUT - 1, attempt=1, last_round=BACK - 1)
            is not None
        )

    def play(self, round_num: int) -> Round:
        """Play one round; client 1 is away between the cut and its return."""
        updates, client_loss = [], None
        for key, bench in self.benches.items():
            if key == CLIENT and CUT <= round_num < BACK:
                continue
            bench.prepare(round_num, self.model)
            updates.append(trained(bench, key, round_num))
            if key == CLIENT:
                client_loss = measure(bench.local.model, self.shares[key].training)[0]
        pull: Pull | None = pulls(self.model, updates, list(self.model)).get(CLIENT)
        self.model = fedavg(self.model, updates, list(self.model)).tensors
        for update in updates:
            self.benches[update.client].acknowledge(round_num)
        return Round(
            client_loss,
            held_out_loss(self.model, self.data),
            None if pull is None else pull.cosine,
            None if pull is None else pull.norm,
        )


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


def rows(found: dict[float, Runs]) -> Iterator[Row]:
    """Compare the first round back, over all seeds."""
    for alpha, runs in found.items():
        is_main = alpha == MAIN_ALPHA
        claim = f"client 1's loss in its first round back, alpha {alpha:g}"
        yield compared(claim, runs, "client_loss", least=1.2 if is_main else None)
        lower, total = num_lower(runs)
        yield Row(
            f"seeds in which `reset` has the lower one, alpha {alpha:g}",
            f"{lower} of {total}",
            "",
            target="most" if is_main else "",
            is_met=2 * lower > total if is_main else None,
        )
        suffix = f"of that update, alpha {alpha:g}"
        yield compared(f"length {suffix}", runs, "norm")
        yield compared(f"cosine to the others' {suffix}", runs, "cosine")
        claim = f"held-out loss of the global model after it, alpha {alpha:g}"
        yield compared(claim, runs, "global_loss")


def num_lower(runs: Runs) -> tuple[int, int]:
    """In how many seeds the reset leaves client 1 the lower loss, and of how many."""
    pairs = list(zip(first_back(runs, "reset"), first_back(runs, "keep"), strict=True))
    lower = sum(reset.client_loss < keep.client_loss for reset, keep in pairs)
    return lower, len(pairs)


def first_back(runs: Runs, policy: str) -> list[Round]:
    return [run[BACK - 1] for run in runs[policy]]


def middle(runs: Runs, policy: str, name: str) -> float:
    return statistics.median(getattr(one, name) for one in first_back(runs, policy))


def compared(claim: str, runs: Runs, name: str, *, least: float | None = None) -> Row:
    at = {policy: middle(runs, policy, name) for policy in POLICIES}
    ratio = at["keep"] / at["reset"]
    return Row(
        f"{claim}, median",
        f"reset {at['reset']:.3f}, decay {at['decay']:.3f}",
        f"keep {at['keep']:.3f}",
        ratio=f"{ratio:.2f}x",
        target="" if least is None else f"≥ {least:g}x",
        is_met=None if least is None else ratio >= least,
    )


def draw(found: dict[float, Runs], path: Path) -> None:
    """Write the picture: a column for each mix, median and middle half of the seeds."""
    sheet = Sheet(
        styles={f"{policy} momentum": style for policy, style in STYLES.items()},
        last=ROUNDS,
        shaded=(CUT - 0.5, BACK - 0.5),
        shade_text="client 1 cut off",
        axis_text="round",
    )
    charts = [
        [loss_chart(alpha, runs) for alpha, runs in found.items()],
        [global_chart(runs) for runs in found.values()],
        [cosine_chart(runs) for runs in found.values()],
    ]
    sheet.draw(charts, path)


def loss_chart(alpha: float, runs: Runs) -> Chart:
    ratio = middle(runs, "keep", "client_loss") / middle(runs, "reset", "client_loss")
    lower, total = num_lower(runs)
    found = f"keep {ratio:.2f}x reset ({lower} of {total})"
    return Chart(
        f"alpha {alpha:g}, {ALPHAS[alpha]}",
        f"client 1's own loss; round {BACK}: {found}",
        *(0.0, 1.0, 0.25),
        curves(runs, "client_loss"),
    )


def global_chart(runs: Runs) -> Chart:
    title = "loss of the global model, held-out digits"
    return Chart("", title, 0.0, 1.0, 0.25, curves(runs, "global_loss"))


def cosine_chart(runs: Runs) -> Chart:
    title = "cosine of client 1's update to the others'"
    return Chart("", title, -0.5, 1.0, 0.5, curves(runs, "cosine"))


def curves(runs: Runs, name: str) -> dict[str, Curve]:
    return {f"{policy} momentum": quartiles(runs[policy], name) for policy in POLICIES}


def quartiles(
    runs: list[list[Round]], name: str
) -> dict[int, tuple[float, float, float]]:
    found = {}
    for round_num in range(1, ROUNDS + 1):
        values = [getattr(run[round_num - 1], name) for run in runs]
        if None not in values:
            low, center, high = statistics.quantiles(values, n=4)
            found[round_num] = (low, center, high)
    return found


if __name__ == "__main__":
    sys.exit(main())
