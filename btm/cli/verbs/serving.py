"""The verb that serves a forest."""

from btm.cli.verbs.output import Output
from btm.config.schema import Config
from btm.system.json_files import Json


def serve(config: Config, out: Output) -> None:
    """Serve a forest to any client of OpenAI's API, until Ctrl-C or SIGTERM.

    `forest` is the ensemble of ensemble.experts under ensemble.rule, `forest:gated` the same
    experts under another rule; every ELM, average, student and mixture of experts is a model by its
    name. An expert that is merged meanwhile joins them within serve.reload seconds, a removed one
    answers no more.

    serve.remote= names experts that other servers run: any OpenAI-compatible completions endpoint
    that tells top log-probs and has the forest's tokenizer, as vLLM's or llama.cpp's.
    serve.engine=ray places each model, and copies of it, on the machines of a Ray cluster
    (serve.ray.address), and goes on when machines die (docs/serving.md).

    It listens on this machine alone. For another serve.host= there must be a token, in the file
    serve.token_file= or in BTM_SERVE_TOKEN. It begins by saying what memory the models will take;
    --dry-run shows that, and what would be served, and where.

    example: btm serve forest=experts/demo serve.port=8000
    example: btm serve forest=experts/demo serve.engine=ray
    example: btm serve forest=experts/demo serve.host=0.0.0.0 serve.token_file=token
    """
    from btm.serve.catalog import Catalog
    from btm.serve.engine import Engine
    from btm.serve.http import server
    from btm.serve.http.access import token_of
    from btm.serve.limits import Limits
    from btm.serve.memory import memory_of
    from btm.serve.plan import loading

    chosen = config.serve
    token = token_of(chosen)
    catalog = Catalog(config)
    for said in catalog.remotes.connect():
        print(f"note: {said}", file=out.stderr, flush=True)
    catalog.refresh()
    memory = memory_of(catalog, config.load, chosen)

    def ready(url: str) -> None:
        names = [served.name for served in catalog]
        said = f"{config.forest_root} is served at {url}, as {', '.join(names)}; Ctrl-C ends it"
        facts: Json = {"url": url, "models": names}
        lines = [said]
        if chosen.engine == "local":
            facts["memory_bytes"] = memory.most
            lines = [*memory.lines, said]
        out.line("\n".join(lines), facts)
        out.stdout.flush()

    with loading(config, catalog) as load:
        engine = Engine(catalog, Limits(chosen.running, chosen.waiting, chosen.context), load)
        server.run(chosen, catalog, token, ready, engine)
