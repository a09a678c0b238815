"""A federation without sockets or clocks: every schedule of faults, by seed.

The real machine of rounds, the real decisions about client state and the real
average, on a virtual network and a virtual clock. Messages are delayed,
duplicated and lost; clients and the server are killed, restarted and stopped.
"""

import heapq
import itertools
import random
from dataclasses import dataclass, field

import torch

from trainer.federated.aggregate import Update, fedavg
from trainer.federated.rounds import Rounds
from trainer.federated.session import (
    Standing,
    acknowledge,
    begin,
    change_state,
    finish_training,
    settle,
)
from trainer.federated.terms import (
    SECOND_NS,
    Abandon,
    Ask,
    Close,
    Finish,
    Offer,
    Open,
    RoundRules,
)

NAMES = ("w",)
MS = SECOND_NS // 1000


class World:
    """A clock and what will happen."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.now_ns = 0
        self._queue = []
        self._count = itertools.count()

    def after(self, delay_ns, call, *args):
        entry = (self.now_ns + max(0, int(delay_ns)), next(self._count), call, args)
        heapq.heappush(self._queue, entry)

    def ms(self, low, high):
        return self.chance.randint(low, high) * MS

    def run(self, *, until, limit):
        for _ in range(limit):
            if until():
                return
            assert self._queue, "nothing will ever happen again"
            self.now_ns, _, call, args = heapq.heappop(self._queue)
            call(*args)
        raise AssertionError("it does not end")


class Process:
    """Something that can be killed, started again, stopped and continued."""

    def __init__(self, world):
        self.world = world
        self.life = 0
        """Counts starts: what was sent to an earlier life never arrives."""
        self.is_up = False
        self.is_stopped = False
        self._waiting = []

    def receive(self, life, call, *args):
        """Run a call in this life, later if the process is stopped."""
        if not self.is_up or life != self.life:
            return
        if self.is_stopped:
            self._waiting.append((life, call, args))
        else:
            call(*args)

    def later(self, delay_ns, call, *args):
        self.world.after(delay_ns, self.receive, self.life, call, *args)

    def kill(self):
        self.is_up, self.is_stopped, self._waiting = False, False, []

    def stop(self):
        self.is_stopped = self.is_up

    def proceed(self):
        if self.is_stopped:
            self.is_stopped = False
            waiting, self._waiting = self._waiting, []
            for life, call, args in waiting:
                self.receive(life, call, *args)


@dataclass
class Link:
    """One connection. What is sent over a cut one is lost."""

    world: World
    client: "Client"
    server: "Server"
    session: str
    is_cut: bool = False
    lives: tuple = ()

    def __post_init__(self):
        self.lives = (self.client.life, self.server.life)

    def to_server(self, call, *args):
        self._send(self.server, self.lives[1], call, *args)

    def to_client(self, call, *args):
        self._send(self.client, self.lives[0], call, *args)

    def _send(self, process, life, call, *args):
        if self.is_cut:
            return
        delay_ns = self.world.ms(1, 40)
        self.world.after(delay_ns, self._arrive, process, life, call, *args)

    def _arrive(self, process, life, call, *args):
        if not self.is_cut:
            process.receive(life, call, *args)

    def cut(self):
        """Break it; each side finds out in its own time, if it still lives."""
        if self.is_cut:
            return
        self.is_cut = True
        for process, life, call in (
            (self.server, self.lives[1], self.server.lost),
            (self.client, self.lives[0], self.client.disconnected),
        ):
            delay_ns = self.world.ms(0, 300)
            self.world.after(delay_ns, process.receive, life, call, self)


@dataclass
class Durable:
    """What the server's disk holds."""

    rounds: list = field(default_factory=list)
    """(base, updates, model) of each committed round."""
    acked: dict = field(default_factory=dict)

    @property
    def model(self):
        return self.rounds[-1][2] if self.rounds else {"w": torch.zeros(3)}


class Server(Process):
    """The coordinator's part."""

    def __init__(self, world, rules):
        super().__init__(world)
        self.rules = rules
        self.disk = Durable()
        self.streams = []
        self.finish = None
        self.closes = []
        self.refusals = []
        self.stopped_ns = 0
        """Until when it was last stopped: deadlines may be late by that."""

    def start(self):
        self.life += 1
        self.is_up = True
        self.links, self.given = {}, {}
        self.machine = Rounds(
            self.rules,
            attempt=self.life,
            last_round=len(self.disk.rounds),
            model_digest=f"m{len(self.disk.rounds)}",
            now_ns=self.world.now_ns,
        )
        self.obey(self.machine.tick(self.world.now_ns))

    def proceed(self):
        self.stopped_ns = self.world.now_ns
        super().proceed()

    def kill(self):
        super().kill()
        streams, self.streams = self.streams, []
        for link in streams:
            link.cut()

    def obey(self, effects):
        for effect in effects:
            if isinstance(effect, Open):
                self.given = {}
                for client in effect.clients:
                    self.ask(client)
            elif isinstance(effect, Ask):
                self.ask(effect.client)
            elif isinstance(effect, Close):
                self.check_deadline(effect)
                updates = [self.given[client] for client in effect.members]
                self.later(self.world.ms(1, 50), self.commit, effect, updates)
            elif isinstance(effect, Abandon):
                self.given = {}
            elif isinstance(effect, Finish):
                self.finish = effect
                for link in self.links.values():
                    link.to_client(link.client.over)
        wake_ns = self.machine.wake_ns()
        if wake_ns is not None:
            self.later(wake_ns - self.world.now_ns, self.tick)

    def check_deadline(self, close):
        assert close.closed_ns <= max(close.deadline_ns, self.stopped_ns)
        self.closes.append(close)

    def tick(self):
        self.obey(self.machine.tick(self.world.now_ns))

    def ask(self, client):
        link = self.links.get(client)
        if link is not None:
            link.to_client(
                link.client.asked,
                link,
                self.machine.round_num,
                self.life,
                self.machine.model_digest,
                self.disk.model,
            )

    def hello(self, link):
        key = link.client.key
        self.links[key] = link
        told = (self.disk.acked.get(key), self.life, len(self.disk.rounds))
        link.to_client(link.client.welcomed, link, *told)

    def ready(self, link):
        if self.links.get(link.client.key) is link:
            join = self.machine.join(link.client.key, link.session, self.world.now_ns)
            self.obey(join)

    def lost(self, link):
        if self.links.get(link.client.key) is link:
            del self.links[link.client.key]
            key, session = link.client.key, link.session
            self.obey(self.machine.lose(key, session, self.world.now_ns))

    def update(self, link, offer, tensors):
        now_ns = self.world.now_ns
        before = dict(self.given)
        refusal, effects = self.machine.update(offer, now_ns)
        if refusal is None:
            assert offer.client not in before
            self.given[offer.client] = Update(
                client=offer.client, tensors=tensors, num_examples=len(offer.client)
            )
        else:
            self.refusals.append(refusal)
        self.obey(effects)

    def commit(self, close, updates):
        """One transaction: before it nothing, after it everything."""
        base = self.disk.model
        model = fedavg(base, updates, NAMES).tensors
        self.disk.rounds.append((base, tuple(updates), model))
        self.disk.acked |= dict.fromkeys(close.members, close.round_num)
        for key, link in self.links.items():
            told = (self.disk.acked.get(key), close.round_num)
            link.to_client(link.client.told_model, *told)
        digest = f"m{close.round_num}"
        now_ns = self.world.now_ns
        self.obey(self.machine.commit_done(close.round_num, digest, now_ns))


class Client(Process):
    """The participant's part. Its state counts the rounds that grew it."""

    def __init__(self, world, key, server):
        super().__init__(world)
        self.key = key
        self.server = server
        self.disk = Standing()
        self.link = None
        self.is_over = False
        self.num_sessions = 0
        self.num_resets = 0

    def start(self):
        self.life += 1
        self.is_up = True
        self.standing = self.disk
        self.link = self.job = self.result = None
        self.connect()

    def kill(self):
        super().kill()
        if self.link is not None:
            self.link.cut()

    def connect(self):
        if self.is_over or self.link is not None:
            return
        if not self.server.is_up:
            self.later(self.world.ms(50, 400), self.connect)
            return
        self.num_sessions += 1
        session = f"{self.key}/{self.num_sessions}"
        self.link = Link(self.world, self, self.server, session)
        self.link.to_server(self.server.hello, self.link)
        self.server.streams.append(self.link)

    def disconnected(self, link):
        if self.link is link:
            self.link = None
            self.later(self.world.ms(20, 400), self.connect)

    def welcomed(self, link, server_acked, attempt, last_round):
        if self.link is not link:
            return
        job = self.job
        is_on_it = (
            job is not None
            and job[:2] == (last_round + 1, attempt)
            and self.standing.acked_round == server_acked
        )
        if not is_on_it:
            self.job = None
            self.take(
                settle(
                    self.standing,
                    server_acked=server_acked,
                    attempt=attempt,
                    last_round=last_round,
                )
            )
        link.to_server(self.server.ready, link)

    def take(self, settled):
        self.standing = settled.standing
        if settled.loss is not None:
            self.num_resets += 1
            self.standing = change_state(self.standing, lambda _: None)
        self.disk = self.standing

    def told_model(self, acked_round, round_num):
        if self.job is not None and round_num >= self.job[0]:
            self.job = None
        if acked_round is not None:
            self.standing = acknowledge(self.standing, acked_round)
            self.disk = self.standing

    def asked(self, link, round_num, attempt, digest, model):
        if self.link is not link:
            return
        job = (round_num, attempt, digest)
        if self.result is not None and self.result[0] == job:
            self.offer()
        elif self.job != job:
            self.take(begin(self.standing, round_num))
            state = self.standing.state
            assert state is None or state[-1] == round_num - 1, "stale state is used"
            self.job = job
            self.later(self.world.ms(10, 900), self.trained, job, model)

    def trained(self, job, model):
        if self.job != job:
            return
        round_num, attempt, _ = job
        grown = (*(self.standing.state or ()), round_num)
        noise = torch.Generator().manual_seed(hash_of(self.key, grown))
        tensors = {"w": model["w"] + torch.randn(3, generator=noise)}
        self.standing = finish_training(
            self.standing, round_num=round_num, attempt=attempt, state=grown
        )
        self.disk = self.standing
        self.job, self.result = None, (job, tensors)
        self.offer()

    def offer(self):
        if self.link is None:
            return
        (round_num, attempt, digest), tensors = self.result
        offer = Offer(
            client=self.key,
            session=self.link.session,
            round_num=round_num,
            attempt=attempt,
            base_digest=digest,
        )
        for _ in range(self.world.chance.choice([1, 1, 1, 2])):
            self.link.to_server(self.server.update, self.link, offer, tensors)

    def over(self):
        self.is_over = True


def hash_of(key, grown):
    return random.Random(f"{key}/{grown}").getrandbits(40)


FAULTS = ("cut", "kill", "stop", "kill server", "stop server")


def simulate(seed):
    """Run one schedule to its end; return the server and its clients."""
    world = World(seed)
    chance = world.chance
    num_clients = chance.randint(1, 5)
    min_clients = chance.randint(1, num_clients)
    rules = RoundRules(
        num_rounds=chance.randint(1, 8),
        limit_ns=world.ms(400, 3000),
        min_clients=min_clients,
        min_updates=chance.randint(1, min_clients),
        client_frac=chance.choice([0.5, 1.0]),
        expected_clients=num_clients,
        gather_ns=world.ms(0, 2000),
        return_grace_ns=world.ms(0, 500),
        max_tries=200,
        patience_ns=None,
        seed=seed,
    )
    server = Server(world, rules)
    clients = [Client(world, f"client-{n}", server) for n in range(num_clients)]
    server.start()
    for client in clients:
        world.after(world.ms(0, 500), client.start)
    for _ in range(chance.randint(0, 25)):
        plan_fault(world, server, chance.choice(clients))
    world.run(until=lambda: server.finish is not None, limit=200_000)
    return server, clients


def plan_fault(world, server, client):
    """Something goes wrong at some time, and is put right some time later."""
    fault = world.chance.choice(FAULTS)
    begin_ns, length_ns = world.ms(0, 12_000), world.ms(10, 3000)
    process = server if fault.endswith("server") else client

    def go_wrong():
        if fault == "cut":
            if client.link is not None:
                client.link.cut()
        elif fault.startswith("kill"):
            if not process.is_up:
                return
            process.kill()
            world.after(length_ns, start_again, process)
        else:
            process.stop()
            world.after(length_ns, process.proceed)

    world.after(begin_ns, go_wrong)


def start_again(process):
    if not process.is_up:
        process.start()


def check(server, clients):
    """Whatever happened, this holds at the end."""
    model = {"w": torch.zeros(3)}
    for base, updates, outcome in server.disk.rounds:
        assert torch.equal(base["w"], model["w"]), "a round began from another model"
        again = fedavg(base, reversed(updates), NAMES).tensors
        assert torch.equal(again["w"], outcome["w"]), "a replay gives other bits"
        keys = [update.client for update in updates]
        assert keys == sorted(set(keys))
        model = outcome
    for client in clients:
        members = [
            number
            for number, (_, updates, _) in enumerate(server.disk.rounds, start=1)
            if client.key in {update.client for update in updates}
        ]
        assert server.disk.acked.get(client.key) == (members[-1] if members else None)
        settled = settle(
            client.disk,
            server_acked=server.disk.acked.get(client.key),
            attempt=server.life,
            last_round=len(server.disk.rounds),
        )
        state = settled.standing.state
        if settled.loss is None and state is not None:
            assert state[-1] == members[-1]
            assert list(state) == members[-len(state) :], "state of a round that is not"
