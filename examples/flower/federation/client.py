"""The ClientApp: local training, state and store are opsdash's."""

from flwr.clientapp import ClientApp

from trainer.federated.flower import introduce, train

app = ClientApp()
app.query()(introduce)
app.train()(train)
