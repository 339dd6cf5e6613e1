"""The plan of `btm serve`: the models, where they run, and the address."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from btm.config.schema import Config
from btm.forest import Model
from btm.serve.catalog import Catalog
from btm.serve.http.access import is_loopback, token_of
from btm.serve.members.cluster.placement import need, placed, said
from btm.serve.members.member import Member
from btm.serve.members.remote.experts import RemoteModel
from btm.serve.memory import memory_of
from btm.steps.plan import Plan


def plan_of_serve(config: Config) -> list[Plan]:
    """Plan a server: its address, each of its models, and the memory that they take."""
    serve = config.serve
    who = "this machine alone" if is_loopback(serve.host) else "whoever reaches this machine"
    how = "without a token" if token_of(serve) is None else "with the token"
    port = serve.port or "a free port"
    plans = [Plan("listen", f"{serve.host}:{port}", f"for {who}, {how}")]
    catalog = Catalog(config)
    for served in catalog:
        names = ", ".join(model.name for model in served.members)
        what = f"the ensemble of {names}" if served.kind == "ensemble" else served.kind
        if isinstance(served.members[0], RemoteModel) and served.kind != "ensemble":
            what = f"at {served.members[0].url}"
        reads = tuple(model.path for model in served.members if model.kind != "remote")
        plans.append(Plan("serve", served.name, what, reads=reads))
    if serve.engine == "local":
        lines = memory_of(catalog, config.load, serve).lines
        return [*plans, *(Plan("memory", "", line) for line in lines)]
    return [*plans, *_placements(config, catalog)]


@contextmanager
def loading(config: Config, catalog: Catalog) -> Iterator[Callable[[Model], Member] | None]:
    """Make the function that loads members where serve.engine says; None: in this process."""
    if config.serve.engine == "local":
        yield None
        return
    models = _models(catalog)
    first = [model for model in next(iter(catalog)).members if model in models]
    with placed(config, first, len(models)) as load:
        yield lambda model: catalog.remotes.load(model) if model.kind == "remote" else load(model)


def _placements(config: Config, catalog: Catalog) -> Iterator[Plan]:
    """Plan where each model runs, as far as is known before the cluster is asked."""
    ray = config.serve.ray
    where = f"the Ray cluster {ray.address}" if ray.address else "this machine, which Ray begins on"
    copies = f", at most {ray.replicas} machines" if ray.address and ray.replicas > 1 else ""
    ensemble = next(iter(catalog)).members
    for model in _models(catalog):
        when = "at once" if model in ensemble else "when it is asked for"
        what = f"{when}: a process with {said(need(config, model))} on {where}{copies}"
        yield Plan("place", model.name, what, reads=(model.path,))


def _models(catalog: Catalog) -> list[Model]:
    """List the models that run here or on the cluster, each once."""
    members = [model for each in catalog for model in each.members if model.kind != "remote"]
    return list({model.sha256: model for model in members}.values())
