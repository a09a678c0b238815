"""Train in federated rounds: one server, clients that come and go.

What a client and the server agree on: `config`, `problem`, `terms`, `messages`,
`transfer` (tensors by digest), `transport` (gRPC) and `security`.

The server, from the command inwards: `server`, `coordinator` (drives the rounds),
`reception`, `attendance` and `peer` (who is connected, and gives what), `rounds`
(the state machine: no I/O, no clock) on `presence` and `open_round`, `intake` (looks
at updates), `aggregate` (FedAvg), `evaluation`, `global_model` (all of a round),
`server_store` and `ledger` (durable), `recovery` (from damage), `server_events`,
`flood` (what is held back), `requests` (what an operator asks for).

The client, from the command inwards: `client`, `membership` (connections, back-off),
`participant` (answers the server), `part`, `arrival` (of a model), `training` (of a
round), `workbench` (settle, train, store), `session` (what may be kept after a gap),
`local`, `learner`, `optimizer_state`, `client_store`, `client_events`.

`launch` starts both as processes, `replay` proves a round from its members, and
`flower` runs the same federation on Flower.
"""
