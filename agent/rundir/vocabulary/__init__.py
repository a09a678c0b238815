"""The kinds of events, one family per module; `agent.rundir.events` has them all."""
