"""A forest on a Ray cluster of three machines writes what one machine writes, while machines die
and join.
"""

import queue
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from btm.ensemble.sampling import Sampling
from btm.serve.catalog import Catalog
from btm.serve.engine import Engine
from btm.serve.members.cluster import placement
from btm.serve.members.cluster.placement import placed
from btm.serve.request import Done, Request, Token

pytestmark = [pytest.mark.slow, pytest.mark.traced, pytest.mark.timeout(900)]
GREEDY = Sampling(temperature=0)
EXPERTS = ["bible", "code_python"]
TEXTS = ["In the beginning", "def main(", "", "My friends, we"]


class Machines:
    """The machines of a cluster, each some processes of this one."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.begin(num_cpus=0, include_dashboard=False)  # the gateway's own has no CPUs to give
        self.add()
        self.add()

    def add(self):
        return self.begin(num_cpus=len(EXPERTS))

    def begin(self, **settings):
        """Begin a machine. Ray gives each 30 seconds to start, which is little beside other tests."""
        settings |= {"node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}
        for attempt in range(5):
            try:
                return self.cluster.add_node(**settings).node_id
            except Exception as error:
                if attempt == 4 or "timed out during startup" not in str(error):
                    raise

    def kill(self, machine):
        (node,) = (n for n in self.cluster.worker_nodes if n.node_id == machine)
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def machines():
    """A cluster of three machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "_DOUBT", 5.0)  # else each test waits for a minute after the last
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # the loopback's address
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 2)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_enable_worker_prestart", "0")
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            yield Machines(cluster)
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def config(grown, machines):
    config = grown[0]
    ray = replace(config.serve.ray, address=machines.cluster.address, wire="fp32", cpus=1.0)
    return replace(
        config,
        ensemble=replace(config.ensemble, experts=EXPERTS),
        serve=replace(config.serve, engine="ray", ray=ray),
    )


@pytest.fixture(scope="module")
def catalog(config):
    return Catalog(config)


@pytest.fixture(scope="module")
def engine(config, catalog, machines):
    """An engine whose members read on the cluster."""
    with (
        placed(config, catalog.find("forest").members, 2) as load,
        started(catalog, load) as engine,
    ):
        yield engine


@contextmanager
def started(catalog, load=None):
    engine = Engine(catalog, load=load)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def ask(engine, catalog, text, tokens=24, then=lambda written: None):
    """Submit a request; `then` is called by the engine's thread with the tokens that it has."""
    events, written = queue.Queue(), []

    def hear(event):
        if isinstance(event, Token):
            written.append(event)
            then(len(written))
        events.put(event)

    prompt = tuple(catalog.tokenizer(text, add_special_tokens=False).input_ids)
    request = Request("forest", prompt, tokens, GREEDY, ignore_ends=True, posterior=True)
    engine.submit(request, hear)
    return events


def collect(events):
    found = []
    while not found or not isinstance(found[-1], Done):
        found.append(events.get(timeout=300))
    assert found[-1].error == ""
    return [event for event in found if isinstance(event, Token)], found[-1]


@pytest.fixture(scope="module")
def wanted(catalog):
    """The tokens that one machine writes after each text."""
    with started(catalog) as engine:
        asked = [ask(engine, catalog, text) for text in TEXTS]
        return [[token.id for token in collect(events)[0]] for events in asked]


def members_of(engine, catalog):
    engine.members.wait(catalog.find("forest"))
    return [engine.members[model.sha256] for model in catalog.find("forest").members]


def wait(whether, seconds=300):
    until = time.monotonic() + seconds
    while not whether():
        assert time.monotonic() < until
        time.sleep(0.05)


def stand(engine, catalog, replicas=2):
    """Wait until every expert has so many replicas that read; return their machines."""
    members = members_of(engine, catalog)
    wait(lambda: all(sum(c.reads for c in m.copies) == replicas for m in members))
    return [{copy.machine for copy in member.copies} for member in members]


def test_what_is_written_is_that_of_one_machine(engine, catalog, wanted):
    machines = stand(engine, catalog)
    assert machines[0] == machines[1] and len(machines[0]) == 2
    asked = [ask(engine, catalog, text) for text in TEXTS]
    for events, tokens in zip(asked, wanted, strict=True):
        found, done = collect(events)
        assert [token.id for token in found] == tokens
        assert done == Done("length")


def test_a_machine_that_dies_takes_no_request_with_it_and_one_that_joins_is_used(
    engine, catalog, machines, wanted
):
    (dies, stays), _ = map(sorted, stand(engine, catalog))
    members = members_of(engine, catalog)
    asked = [
        ask(engine, catalog, text, then=lambda n: n == 5 and machines.kill(dies))
        for text in TEXTS[:1]
    ]
    asked += [ask(engine, catalog, text) for text in TEXTS[1:]]
    for events, tokens in zip(asked, wanted, strict=True):
        found, done = collect(events)
        assert [token.id for token in found] == tokens
        assert done == Done("length")
    wait(lambda: all([c.machine for c in m.copies] == [stays] for m in members))
    joins = machines.add()
    assert stand(engine, catalog) == [{stays, joins}] * 2
    # A new replica counts as the fastest: it is asked first, and writes the same.
    before = [copy for member in members for copy in member.copies if copy.machine == joins]
    found, _ = collect(ask(engine, catalog, TEXTS[0]))
    assert [token.id for token in found] == wanted[0]
    assert all(copy.seconds for copy in before)


def test_a_replica_that_cannot_tell_which_texts_it_has_ends_and_another_goes_on(
    engine, catalog, wanted
):
    stand(engine, catalog)
    member = members_of(engine, catalog)[0]
    before = set(member.copies)

    def confuse(written):
        if written == 5:
            (reads,) = (copy for copy in member.copies if copy.texts)
            reads.tell("drop", None)

    found, done = collect(ask(engine, catalog, TEXTS[0], then=confuse))
    assert [token.id for token in found] == wanted[0]
    assert done == Done("length")
    wait(lambda: len(before & set(member.copies)) == 1)


def test_an_expert_without_a_replica_is_left_out_and_comes_back(engine, catalog, wanted):
    import ray

    stand(engine, catalog)
    lost = members_of(engine, catalog)[0]

    def end(written):
        if written == 5:
            for copy in lost.copies:
                ray.kill(copy.actor)

    found, done = collect(ask(engine, catalog, TEXTS[0], then=end))
    assert (done.reason, done.lost) == ("length", (EXPERTS[0],))
    assert [token.id for token in found[:5]] == wanted[0][:5]
    assert found[0].posterior.keys() == {*EXPERTS}
    assert found[-1].posterior == {EXPERTS[1]: pytest.approx(1)}
    found, done = collect(ask(engine, catalog, TEXTS[0]))
    assert [token.id for token in found] == wanted[0]
    assert done == Done("length")
