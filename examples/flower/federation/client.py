"""The ClientApp: local training, state and store are opsdash's."""

from flwr.clientapp import ClientApp

from trainer.federated.flower import train

app = ClientApp()
app.train()(train)
