"""A federation in one event loop: real sockets, real stores, real telemetry."""

import asyncio
import contextlib
import threading

from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.events import RoundCommitted, decode_lines
from agent.rundir.layout import RunDir
from agent.session import Agent
from agent.start import begin_run
from tests.trainer.federated.bench import toy
from tests.trainer.federated.proxy import Proxy
from trainer.federated.catching_up import catch_up
from trainer.federated.client import Surroundings
from trainer.federated.config import client_keys, defining
from trainer.federated.coordinator import Coordinator
from trainer.federated.global_model import GlobalModel
from trainer.federated.membership import Membership
from trainer.federated.participant import Participant
from trainer.federated.problem import Settings, server_data
from trainer.federated.replay import replay
from trainer.federated.requests import Obeying
from trainer.federated.security import ClientSecurity, Endpoint, ServerSecurity
from trainer.federated.server_events import ServerEvents
from trainer.federated.transport import TransportServer

KEYS = ("client-1", "client-2", "client-3")


class Server:
    """One attempt of a server."""

    def __init__(self, run_dir, config, *, port=0, security=None):
        self.start_ = begin_run(run_dir, kind="federated", config=defining(config))
        self.start_.record()
        run, data = self.start_.run, server_data(config)
        run_id = self.start_.identity.run_id
        self.model = GlobalModel(
            run.chunk_store("server"), run_id=run_id, config=config, data=data
        )
        self.agent = Agent.attach(
            run.path,
            kind="federated",
            rank=-1,
            attempt=self.start_.attempt,
            node="server",
            heartbeat_s=0.1,
        )
        self.events = ServerEvents(self.agent)
        catch_up(self.events, self.model, self.start_)
        self.coordinator = Coordinator(
            Settings(config=config, shape=data.shape),
            self.model,
            run_id=run_id,
            attempt=self.start_.attempt,
            events=self.events,
        )
        self.transport = TransportServer(
            Endpoint("127.0.0.1", port),
            security or ServerSecurity(),
            self.coordinator.reception.serve,
            self.coordinator.reception.turned_away,
        )
        self.run = run

    async def listen(self):
        self.port = (await self.transport.start()).port
        self.over = asyncio.create_task(self.coordinator.run())
        obeying = Obeying(self.events, self.coordinator, self.model, self.run)
        self.watching = asyncio.create_task(obeying.watch())

    async def end(self):
        """End as after the last round, or at once if it is still running."""
        if not self.over.done():
            self.coordinator.stop()
        finish = await self.over
        self.watching.cancel()
        await asyncio.gather(self.watching, return_exceptions=True)
        await self.transport.stop(0.5)
        self.model.close()
        self.agent.ended(finish.reason, error=finish.detail)
        self.start_.release()


class Client:
    """One client behind a relay of its own."""

    def __init__(self, run_dir, key, port, security=None):
        self.key = key
        self._run = RunDir(run_dir)
        self._port = port
        self._security = security or ClientSecurity()

    async def start(self, *, hold=None):
        self.proxy = Proxy(self._port)
        port = await self.proxy.start()
        self.surroundings = Surroundings(self._run, self.key, None)
        make_workbench = self.surroundings.make_workbench
        if hold is not None:
            make_workbench = slowed(make_workbench, hold)
        self.participant = Participant(make_workbench, self.surroundings.make_events)
        self.membership = Membership(
            self.key,
            Endpoint("127.0.0.1", port),
            self._security,
            self.participant,
            give_up_s=30,
        )
        self.task = asyncio.create_task(self.membership.run())

    async def end(self):
        if not self.task.done():
            self.membership.stop()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.proxy.stop()


def slowed(make_workbench, hold):
    """Let `hold(round_num)` block the worker thread before each round's first step."""

    def make(settings, run_id):
        workbench = make_workbench(settings, run_id)
        trainer = workbench._trainer
        train = trainer.train

        def wait_and_train(round_num, **hooks):
            hold(round_num)
            return train(round_num, **hooks)

        trainer.train = wait_and_train
        return workbench

    return make


@contextlib.asynccontextmanager
async def serving(run_dir, config, **options):
    """Yield a server that listens; it has ended afterwards."""
    server = Server(run_dir, config, **options)
    await server.listen()
    try:
        yield server
    finally:
        await server.end()


@contextlib.asynccontextmanager
async def taking_part(run_dir, key, port, *, security=None, hold=None):
    """Yield a client that takes part; it has left afterwards."""
    client = Client(run_dir, key, port, security)
    await client.start(hold=hold)
    try:
        yield client
    finally:
        await client.end()


@contextlib.asynccontextmanager
async def federation(run_dir, config, *, holds=None):
    """Yield a server and its clients by key; all are gone afterwards."""
    async with serving(run_dir, config) as server, contextlib.AsyncExitStack() as stack:
        clients = {}
        for key in client_keys(config):
            hold = (holds or {}).get(key)
            client = taking_part(run_dir, key, server.port, hold=hold)
            clients[key] = await stack.enter_async_context(client)
        try:
            yield server, clients
        finally:
            for hold in (holds or {}).values():
                hold.open_all()


def events(run_dir, node, attempt=1):
    """Return what a node told in an attempt, decoded."""
    path = RunDir(run_dir).telemetry_file(attempt, node)
    return list(decode_lines(path.read_bytes())) if path.exists() else []


def of_kind(found, kind):
    return [event for event in found if isinstance(event, kind)]


async def until(condition, *, what):
    """Wait for something that must happen; the test's own time-out is the limit."""
    for _ in range(20_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"waited in vain for {what}")


def quick(**changes):
    """Return settings of a federation that is over in a second."""
    values = {"rounds": 4, "gather_s": 20.0, "return_grace_s": 0.05, "lr": 0.01}
    return toy(**(values | changes))


def committed(run_dir, attempt=1):
    """Return the rounds that an attempt of the server told of."""
    return of_kind(events(run_dir, "server", attempt), RoundCommitted)


def assert_replays(run_dir, config):
    """Every stored round is the average of what its members gave, bit for bit."""
    path = RunDir(run_dir).chunk_store("server")
    replayed = list(replay(path, config, server_data(config).shape))
    assert replayed
    assert all(one.differing == () for one in replayed)


class Gate:
    """Holds a client's training in chosen rounds until it is opened."""

    def __init__(self, *rounds):
        self.reached = {round_num: threading.Event() for round_num in rounds}
        self._open = {round_num: threading.Event() for round_num in rounds}

    def __call__(self, round_num):
        if round_num in self._open:
            self.reached[round_num].set()
            assert self._open[round_num].wait(60)

    def open(self, round_num):
        self._open[round_num].set()

    def open_all(self):
        for gate in self._open.values():
            gate.set()

    async def wait_for(self, round_num):
        await until(self.reached[round_num].is_set, what=f"round {round_num}")


def chunk_of(path, round_num, kind):
    """Return the digest of a chunk that holds a tensor of this kind."""
    with ChunkStoreReader(path) as reader:
        layout = reader.layout(round_num)
    names = {row.name for row in layout.tensors if row.kind == kind}
    return next(c.digest for c in layout.chunks if c.parts[0].name in names)
