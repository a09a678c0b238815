import pytest
import torch

from agent.probes.optimizer import measure

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD-nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "AdamW-fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "AMSGrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
}


def trained(make, num_steps: int = 2) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
    )
    optimizer = make(model.parameters())
    for _ in range(num_steps):
        optimizer.zero_grad()
        model(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def plain_norm(tensors) -> float:
    return torch.cat([t.detach().float().flatten() for t in tensors]).norm().item()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_equal_those_taken_tensor_by_tensor(name):
    model, optimizer = trained(OPTIMIZERS[name])

    norms = measure(optimizer)

    by_key = {}
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and key != "step":
                by_key.setdefault(key, []).append(value)
    assert norms.grad == pytest.approx(plain_norm(p.grad for p in model.parameters()))
    assert norms.param == pytest.approx(plain_norm(model.parameters()))
    assert norms.state == pytest.approx({k: plain_norm(v) for k, v in by_key.items()})
    assert norms.nonfinite == ()


def test_adam_shows_its_moments_and_its_step():
    _, optimizer = trained(OPTIMIZERS["AMSGrad"], num_steps=3)

    norms = measure(optimizer)

    assert set(norms.state) == {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    assert norms.state_steps == (3, 3)


def test_lbfgs_keeps_its_history_in_lists():
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    data = torch.randn(8, 4)

    def closure():
        optimizer.zero_grad()
        loss = (model(data) - 1).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    norms = measure(optimizer)

    assert {"old_dirs", "old_stps"} <= set(norms.state)
    # It counts under a name of its own: every one of its inner steps.
    num_steps = optimizer.state[model.weight]["n_iter"]
    assert num_steps > 0
    assert norms.state_steps == (num_steps, num_steps)


def test_groups_are_told_apart():
    layers = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    optimizer = torch.optim.SGD(
        [
            {"params": layers[0].parameters(), "lr": 0.5},
            {"params": layers[1].parameters(), "lr": 0.25},
        ],
        lr=1.0,
    )

    before = [p.detach().clone() for layer in layers for p in layer.parameters()]
    with torch.no_grad():
        layers[1].weight.mul_(1.5)
    changed = plain_norm([layers[1].weight / 3])

    norms = measure(optimizer, before=before)
    first, second = norms.groups

    assert first.update_ratio == 0.0
    assert second.update_ratio == pytest.approx(changed / second.param)
    assert norms.update == pytest.approx(changed)
    assert (first.lr, second.lr) == (0.5, 0.25)
    assert first.num_params == second.num_params == 12
    assert first.param == pytest.approx(plain_norm(layers[0].parameters()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_names_its_tensor(bad):
    model, optimizer = trained(OPTIMIZERS["Adam"])
    weight = model[2].weight
    optimizer.state[weight]["exp_avg_sq"][1, 2] = bad
    names = {id(p): n for n, p in model.named_parameters()}

    norms = measure(optimizer, names)

    assert norms.nonfinite == ("2.weight.exp_avg_sq",)
    assert norms.state["exp_avg_sq"] is None
    assert norms.state["exp_avg"] is not None


def test_reduced_precision_is_accumulated_in_float32():
    param = torch.nn.Parameter(torch.full((70_000,), 3.0, dtype=torch.float16))
    optimizer = torch.optim.SGD([param], lr=0.1)

    assert measure(optimizer).param == pytest.approx(3.0 * 70_000**0.5, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.complex128])
def test_wide_and_complex_parameters_are_measured_beside_others(dtype):
    params = [
        torch.nn.Parameter(torch.full((3,), 2.0, dtype=dtype)),
        torch.nn.Parameter(torch.full((2,), 1.0)),
    ]
    optimizer = torch.optim.AdamW(params, lr=0.1)
    for param in params:
        param.grad = torch.ones_like(param) * (1j if param.is_complex() else 1)
    before = [p.detach().clone() for p in params]
    optimizer.step()

    norms = measure(optimizer, before=before)

    assert norms.grad == pytest.approx(5**0.5)
    assert norms.param == pytest.approx(sum(plain_size(p) for p in params) ** 0.5)
    assert norms.state.keys() == {"exp_avg", "exp_avg_sq"}
    assert norms.state["exp_avg"] == pytest.approx(0.1 * 5**0.5)
    assert norms.update > 0
    assert norms.nonfinite == ()


def plain_size(tensor) -> float:
    return tensor.detach().abs().square().sum().item()


def test_a_sparse_gradient_counts_each_row_once():
    table = torch.nn.Embedding(10, 3, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters())
    table(torch.tensor([4, 4, 7])).sum().backward()
    optimizer.step()

    norms = measure(optimizer)

    # Row 4 was used twice: its gradient is the sum.
    assert norms.grad == pytest.approx((3 * 2**2 + 3 * 1**2) ** 0.5)
    assert norms.state.keys() == {"exp_avg", "exp_avg_sq"}


def test_without_state_or_gradients_there_is_less_to_tell():
    optimizer = torch.optim.AdamW(torch.nn.Linear(2, 2).parameters())

    norms = measure(optimizer)

    assert norms.grad is None
    assert norms.state == {}
    assert norms.state_steps is None


def test_an_optimizer_that_nobody_knows_is_measured_by_its_own_names():
    class Odd(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 1.0})

        def step(self):
            for param in self.param_groups[0]["params"]:
                self.state[param]["swirl"] = torch.ones_like(param)
                self.state[param]["note"] = "text"

    _, optimizer = trained(Odd)

    assert set(measure(optimizer).state) == {"swirl"}


def test_the_update_is_the_change_of_the_parameters():
    model, optimizer = trained(OPTIMIZERS["SGD"])
    before = [p.detach().clone() for p in model.parameters()]
    old = [b.clone() for b in before]
    optimizer.step()

    norms = measure(optimizer, before=before)

    change = [p - b for p, b in zip(model.parameters(), old, strict=True)]
    assert norms.update == pytest.approx(plain_norm(change))
    assert norms.update_ratio == pytest.approx(norms.update / norms.param)


def test_a_step_that_changes_nothing_has_a_ratio_of_zero():
    model, optimizer = trained(OPTIMIZERS["SGD"])

    norms = measure(optimizer, before=[p.detach().clone() for p in model.parameters()])

    assert norms.update_ratio == 0.0


def test_parameters_that_are_not_finite_are_named_once():
    model, optimizer = trained(OPTIMIZERS["SGD"])
    before = [p.detach().clone() for p in model.parameters()]
    model[0].bias.data[0] = float("nan")

    norms = measure(optimizer, before=before)

    assert norms.nonfinite == ("group0.1",)
    assert norms.update is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("capturable", [False, True])
def test_a_gpu_is_waited_for_once(capturable):
    layers = [torch.nn.Linear(64, 64) for _ in range(20)]
    model = torch.nn.Sequential(*layers).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), capturable=capturable)
    for _ in range(2):
        model(torch.randn(4, 64, device="cuda")).sum().backward()
        optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    measure(optimizer, before=[b.clone() for b in before])

    torch.cuda.set_sync_debug_mode("warn")
    with pytest.warns(UserWarning, match="synchronizing") as waits:
        norms = measure(optimizer, before=before)
    torch.cuda.set_sync_debug_mode("default")

    assert len([w for w in waits if "synchronizing" in str(w.message)]) == 1
    assert norms.state_steps == (2, 2)
