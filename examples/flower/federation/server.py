"""The ServerApp: rounds, averaging, store and telemetry are opsdash's."""

from flwr.serverapp import ServerApp

from trainer.federated.flower import serve

app = ServerApp()
app.main()(serve)
