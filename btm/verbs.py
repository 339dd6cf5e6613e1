"""What each verb of the command line does: call a step, then show what came of it."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from btm.config import Config
from btm.errors import UserError


@dataclass
class Output:
    """Where results (stdout, as tables or JSON) and progress (stderr) go."""

    as_json: bool
    stdout: IO[str]
    stderr: IO[str]
    flags: Collection[str] = ()

    @property
    def reporter(self) -> Any:
        """The progress of long work."""
        from btm.report import ConsoleReporter

        return ConsoleReporter(self.stderr)

    def line(self, text: str, value: Any) -> None:
        """Print a sentence, or `value` as JSON."""
        print(json.dumps(value, indent=1) if self.as_json else text, file=self.stdout)

    def rows(self, rows: Sequence[Mapping[str, Any]], title: str) -> None:
        """Print a table, or its rows as JSON."""
        if self.as_json:
            return self.line("", list(rows))
        from btm.report.tables import table

        print(table(rows, title), file=self.stdout)


def prepare(config: Config, out: Output) -> None:
    """Turn text into token shards under data/<data.name>/.

    example: btm prepare data=folder data.root=texts data.name=mine
    """
    from btm import steps
    from btm.data.prepare import table

    suite = steps.prepare(config, out.reporter)
    out.rows(table(suite), f"suite {suite.name} in {suite.path}")


def discover(config: Config, out: Output) -> None:
    """Cluster documents without labels into balanced domains, as a folder that prepare takes.

    example: btm discover data=folder data.root=texts discover.k=8 discover.out=found
    """
    from btm.discover.corpus import discover as cluster

    target = Path(config.discover_target)
    if target.exists():
        raise UserError(f"{target} stands there already; give another discover.out=DIR, or delete it")
    rows = cluster(config.data, config.discover, target, out.reporter.line)
    out.rows(rows, f"domains in {target}; next: btm run data=folder data.root={target} data.name=NAME")


def seed(config: Config, out: Output) -> None:
    """Train the ELM that all others descend from, or import one with seed.from=DIR.

    example: btm seed data=folder data.root=texts data.name=mine model=tiny trainer.steps=2000
    """
    from btm import steps

    _elm(steps.seed(config, out.reporter), out)


def branch(config: Config, out: Output) -> None:
    """Initialise a new ELM from a weighted average of those in the forest.

    branch=posterior (weights from the domain's valid split), argmax, uniform or copy; or weights='{…}'.

    example: btm branch expert=law weights='{law: 0.7, med: 0.3}' domain=contracts
    """
    from btm import steps

    name = _expert(config)
    _sweep(config)
    made = steps.branch(config, name, config.domain or name, reporter=out.reporter)
    rows = [{"parent": parent, "weight": p.weight, "raw": p.raw} for parent, p in made.parents.items()]
    out.rows(rows, f"branched {made.path} ({made.origin['method']})")


def train(config: Config, out: Output) -> None:
    """Train a branch on its own domain, or go on where it stopped.

    example: btm train expert=law trainer.lr=2e-4 trainer.steps=500
    """
    from btm import steps

    _sweep(config)
    made = steps.train(config, _expert(config), out.reporter)
    out.line(f"trained {made.path}; next: btm merge expert={made.name}", made.result)


def merge(config: Config, out: Output) -> None:
    """Check a trained branch and move it into the forest.

    Refused if it is worse than a parent on its own valid split, unless merge.force=true.

    example: btm merge expert=law
    """
    from btm import steps

    _sweep(config)
    _elm(steps.merge(config, _expert(config), out.reporter), out)


def score(config: Config, out: Output) -> None:
    """Compute the token log-probabilities that are missing from the forest's cache.

    example: btm score score.splits=[test] score.domains=[law,med]
    """
    from btm import steps

    _sweep(config)
    paths = steps.score(config, out.reporter)
    out.line(f"{len(paths)} score files written; the others stood there", [str(path) for path in paths])


def evaluate(config: Config, out: Output) -> None:
    """Evaluate the ensemble and every ELM on every domain; writes evals/<name>.json and a heat map.

    example: btm eval experiment=demo ensemble.prior=em ensemble.top_k=2 eval.name=demo-em
    """
    from btm import steps

    _result(config, steps.eval_forest(config, out.reporter), out)


def average(config: Config, out: Output) -> None:
    """Average ELMs into one deployable model in averages/.

    weights=uniform, argmax or posterior (both with domain=NAME), or weights='{law: 0.7, med: 0.3}'.

    example: btm average experiment=demo weights=posterior domain=novels
    """
    from btm import steps

    _sweep(config)
    path = steps.average(config, out.reporter)
    out.line(f"averaged into {path}", {"path": str(path)})


def generate(config: Config, out: Output) -> None:
    """Let the ensemble go on with prompt="…"; its experts are weighed anew after each token.

    domain=NAME starts from the prior of that domain, and ensemble.top_k=K then loads and runs K experts alone.

    example: btm generate experiment=demo prompt="In the beginning" domain=bible ensemble.top_k=2
    """
    from btm import steps

    made = steps.generate(config, out.reporter)
    if out.as_json:
        return out.line("", made)
    print(made["prompt"] + made["text"], file=out.stdout)
    print(", ".join(f"{name} {weight:.3f}" for name, weight in made["experts"].items()), file=out.stderr)


def run(config: Config, out: Output) -> int:
    """Grow a whole forest: prepare, seed, branch, train and merge every expert, average, evaluate.

    cluster=local runs the jobs on this machine, cluster=slurm on a cluster, cluster=debug in this process.
    The same command again goes on where the last one stopped, or watches it if it is still at work, and does
    nothing twice. Ctrl-C leaves the jobs running; btm status shows them, btm cancel stops them.

    baseline=X with the words of a forest grows what it is compared with at equal training tokens, beside it, in
    <forest>-X: dense (one LM), dense_large_batch (the paper's), random_split, demix. The last two begin with the
    forest's own seed, so grow the forest first: btm run experiment=demo baseline=demix

    --detach        start and return
    --retry-failed  try again what failed

    example: btm run experiment=demo
    """
    from btm import baselines

    config = baselines.ready(config, out.reporter)
    if config.cluster.kind == "debug":
        if "--detach" in out.flags:
            raise UserError("--detach: cluster=debug runs in this process; give cluster=local or slurm")
        _result(config, baselines.run(config, out.reporter), out)
        return 0
    from btm.launch import cycles

    done = cycles.run(config, out.stderr, detach="--detach" in out.flags, retry="--retry-failed" in out.flags)
    if done is None:
        out.line("started; btm status shows it, btm run with the same words watches it", {"started": True})
        return 0
    result = _evaluation(config)
    if result is not None:
        _result(config, result, out)
    return 0 if done else 1


def paper(config: Config, out: Output) -> None:
    """Reproduce the paper's tables: forests and every baseline, several seeds, and a report with figures.

    size=smoke takes minutes, small two hours on two cores, day a day, paper a cluster. The same command
    again goes on where the last one stopped.

    example: btm paper size=smoke
    """
    from btm.paper import reproduce

    folder = reproduce(config, out.reporter)
    out.line(f"report: {folder / 'report.md'}", {"report": str(folder / "report.md")})


def status(config: Config, out: Output) -> None:
    """Show the jobs of a forest's cycle: what is done, at work, waiting or failed, and why.

    example: btm status forest=experts/demo
    """
    from btm.launch import cycles

    rows, title = cycles.status(config)
    out.rows(rows, title)


def logs(config: Config, out: Output) -> None:
    """Print what the job of an expert has said; -f goes on as it says more, until it ends.

    example: btm logs -f expert=law
    """
    from btm.launch import cycles

    said = cycles.log_lines(config, _expert(config), follow="-f" in out.flags)
    if out.as_json:
        return out.line("", "".join(said).splitlines())
    for text in said:
        print(text, end="", file=out.stdout, flush=True)


def cancel(config: Config, out: Output) -> None:
    """Stop the cycle of a forest, or the job of one expert, after a checkpoint; btm run goes on from there.

    example: btm cancel forest=experts/demo expert=law
    """
    from btm.launch import cycles

    said = cycles.cancel(config)
    out.line(said, {"said": said})


def ls(config: Config, out: Output) -> None:
    """List the ELMs of a forest, and the branches in the making.

    example: btm ls forest=experts/demo --json
    """
    from btm.forest import Forest

    forest = Forest(config.forest_root)
    rows: list[dict[str, Any]] = [
        {
            "name": elm.name,
            "state": "ELM",
            "domains": elm.card.domains,
            "parents": {name: round(parent.weight, 4) for name, parent in elm.card.parents.items()},
            "tokens": elm.card.tokens,
            "valid nats": elm.card.valid_nats,
            "sha256": elm.card.sha256[:12],
        }
        for elm in forest.elms()
    ]
    rows += [
        {
            "name": made.name,
            "state": "trained branch" if made.result else "branch",
            "domains": made.domains,
            "parents": {name: round(parent.weight, 4) for name, parent in made.parents.items()},
            "tokens": None,
            "valid nats": None,
            "sha256": "",
        }
        for made in forest.branches()
    ]
    out.rows(rows, f"forest {forest.root}")


def show(config: Config, out: Output) -> None:
    """Show what an ELM's card says.

    example: btm show experiment=demo expert=bible
    """
    from btm.forest import Forest

    _elm(Forest(config.forest_root)[_expert(config)], out)


def doctor(config: Config, out: Output) -> None:
    """Say what this machine offers and what is missing.

    example: btm doctor --json
    """
    from btm.doctor import findings

    out.rows(findings(config), "btm doctor")


VERBS: dict[str, Callable[[Config, Output], int | None]] = {
    "prepare": prepare,
    "discover": discover,
    "seed": seed,
    "branch": branch,
    "train": train,
    "merge": merge,
    "score": score,
    "eval": evaluate,
    "average": average,
    "generate": generate,
    "run": run,
    "paper": paper,
    "status": status,
    "logs": logs,
    "cancel": cancel,
    "ls": ls,
    "show": show,
    "doctor": doctor,
}


# What makes ELMs one by one; a baseline is grown by `run` alone.
_STEP_BY_STEP = ("prepare", "discover", "seed", "branch", "train", "merge")


def check_baseline(verb: str, config: Config) -> None:
    """Raise `UserError` if `verb` cannot do its work for a baseline."""
    if config.baseline is not None and verb in _STEP_BY_STEP:
        raise UserError(
            f"btm {verb} knows no baseline: leave out baseline={config.baseline}, or use btm run, which grows it whole"
        )


def _sweep(config: Config) -> None:
    """Delete what killed commands left in the forest; a cycle's driver does that itself."""
    from btm.forest import Forest

    Forest(config.forest_root).sweep()


def _expert(config: Config) -> str:
    if config.expert is None:
        raise UserError("which one? give expert=NAME")
    return config.expert


def _elm(elm: Any, out: Output) -> None:
    card = asdict(elm.card)
    if out.as_json:
        return out.line("", card)
    rows = [{"of": key, elm.name: value} for key, value in card.items() if value not in ("", None, [], {})]
    out.rows(rows, str(elm.path))


def _evaluation(config: Config) -> dict[str, Any] | None:
    file = Path(config.forest_root) / "evals" / f"{config.eval.name or Path(config.forest_root).name}.json"
    return json.loads(file.read_bytes()) if file.exists() else None


def _result(config: Config, result: dict[str, Any], out: Output) -> None:
    from btm.report.tables import eval_rows, ledger_rows

    if out.as_json:
        return out.line("", result)
    out.rows(
        eval_rows(result),
        f"perplexity by shard, {result['ensemble']['rule']} under the {result['ensemble']['prior']} prior",
    )
    out.rows(ledger_rows(result), "cost: training with all ancestors, each once; inference of one token")
    file = Path(result["forest"]) / "evals" / f"{config.eval.name or Path(result['forest']).name}.json"
    out.line(f"numbers: {file}\npicture: {file.with_suffix('.png')}", None)
