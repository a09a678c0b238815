import threading
import time

import pytest
import torch

from agent.rundir.events import RunEnded, StepDone, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.requests import read_accepted, read_outcome, write_request

integration = pytest.importorskip(
    "agent.integrations.transformers", reason="Transformers is not installed"
)
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate", reason="its Trainer needs accelerate")


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x, labels=None):
        return {"loss": self.layer(x).square().mean()}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # its own
def test_a_training_is_told_and_stopped_on_request(tmp_path):
    run = RunDir(tmp_path / "run")
    data = [{"x": torch.randn(4)} for _ in range(64)]
    callback = integration.RunDirCallback(run.path, agree_every=1, heartbeat_s=0.02)
    trainer = transformers.Trainer(
        model=Line(),
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path / "out"),
            max_steps=1_000_000,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
        ),
        train_dataset=data,
        callbacks=[callback],
    )
    asked = []

    def ask():
        while read_accepted(run) is None:
            time.sleep(0.01)
        asked.append(write_request(run, "stop", attempt=1))

    operator = threading.Thread(target=ask)
    operator.start()
    trainer.train()
    operator.join()

    found = decode_lines(run.telemetry_file(1, "rank-00000").read_bytes())
    assert read_outcome(run, asked[0]).stage == "done"
    assert [e.reason for e in found if isinstance(e, RunEnded)] == ["stopped"]
    assert any(isinstance(e, StepDone) for e in found)
