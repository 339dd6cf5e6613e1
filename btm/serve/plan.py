"""The plan of `btm serve`: the models, and the address."""

from btm.config.schema import Config
from btm.serve.catalog import Catalog
from btm.serve.http.access import is_loopback, token_of
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
    lines = memory_of(catalog, config.load, serve).lines
    return [*plans, *(Plan("memory", "", line) for line in lines)]
