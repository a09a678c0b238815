import threading
import time

import pytest
import torch

from agent.rundir.events import OptimizerNorms, RunEnded, StepDone, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.requests import read_accepted, read_outcome, write_request

integration = pytest.importorskip(
    "agent.integrations.lightning", reason="Lightning is not installed"
)
lightning = pytest.importorskip("lightning.pytorch")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Lightning's own
def test_a_fit_is_told_and_stopped_on_request(tmp_path):
    class Line(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

    run = RunDir(tmp_path / "run")
    data = torch.utils.data.TensorDataset(torch.randn(64, 4))
    callback = integration.RunDirCallback(
        run.path, agree_every=1, norms_every=5, heartbeat_s=0.02
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=100_000,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    asked = []

    def ask():
        while read_accepted(run) is None:
            time.sleep(0.01)
        asked.append(write_request(run, "stop", attempt=1))

    operator = threading.Thread(target=ask)
    operator.start()
    trainer.fit(Line(), torch.utils.data.DataLoader(data, batch_size=8))
    operator.join()

    found = decode_lines(run.telemetry_file(1, "rank-00000").read_bytes())
    assert read_outcome(run, asked[0]).stage == "done"
    assert list((run.path / "lightning").glob("step-*.ckpt"))
    assert [e.reason for e in found if isinstance(e, RunEnded)] == ["stopped"]
    assert any(isinstance(e, StepDone) and e.loss is not None for e in found)
    assert any(isinstance(e, OptimizerNorms) for e in found)
