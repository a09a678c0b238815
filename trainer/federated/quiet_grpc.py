"""gRPC without its own log lines: what matters is raised, and told as an event.

Its core reads the variable when it is loaded, so it is set here and nowhere
later; whoever sets it before keeps what was set.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from grpc import aio

__all__ = ["aio", "grpc"]
