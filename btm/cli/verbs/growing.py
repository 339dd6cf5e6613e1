"""The verbs that grow a forest: from text to ELMs."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from btm.cli.verbs.output import (
    Output,
    expert_of,
    show_comparison,
    show_elm,
    show_evaluation,
    sweep,
)
from btm.config.schema import Config
from btm.errors import UserError, command
from btm.system.json_files import Json, read_object

if TYPE_CHECKING:
    from btm.report.comparison import Comparison


def prepare(config: Config, out: Output) -> None:
    """Turn text into token shards under data/<data.name>/.

    With forest=DIR of a forest that stands, with its tokenizer; the forest then knows the suite.

    example: btm prepare data=folder data.root=more data.name=more forest=experts/mine
    """
    from btm import steps
    from btm.data import prepare as preparation
    from btm.data.table import SPARE, readable, table

    suite = steps.prepare(config, out.reporter)
    unread = preparation.unread(config.data)
    rows = table(suite, unread)
    title = f"suite {suite.name} in {suite.path}"
    if elsewhere := unread.get(""):
        title += f"; not read beside the domains: {elsewhere}"
    out.rows(rows if out.as_json else readable(rows), title, SPARE)


def discover(config: Config, out: Output) -> None:
    """Cluster documents without labels into balanced domains, as a folder that prepare takes.

    example: btm discover data=folder data.root=texts discover.k=8 discover.out=found
    """
    from btm.data.discover.corpus import discover as cluster

    target = Path(config.discover_target)
    if target.exists():
        raise UserError(
            f"{target} stands there already; give another discover.out=DIR, or delete it"
        )
    rows = cluster(config.data, config.discover, target, out.reporter.line)
    then = command("run", data="folder", **{"data.root": target})
    out.rows(rows, f"domains in {target}; next: {then} data.name=NAME")


def seed(config: Config, out: Output) -> None:
    """Train the ELM that all others descend from, or import one with seed.from=DIR.

    example: btm seed data=folder data.root=texts data.name=mine model=tiny trainer.steps=2000
    """
    from btm import steps

    show_elm(steps.seed(config, out.reporter), out)


def branch(config: Config, out: Output) -> None:
    """Initialise a new ELM from a weighted average of those in the forest.

    branch=posterior (weights from the domain's valid split), token, argmax, uniform or copy; or
    weights='{…}'.

    example: btm branch expert=law weights='{law: 0.7, med: 0.3}' domain=contracts
    """
    from btm import steps

    name = expert_of(config)
    sweep(config)
    made = steps.branch(config, name, config.domain or name, reporter=out.reporter)
    rows = [
        {"parent": parent, "weight": p.weight, "raw": p.raw} for parent, p in made.parents.items()
    ]
    out.rows(rows, f"branched {made.path} ({made.origin['method']})")


def train(config: Config, out: Output) -> None:
    """Train a branch on its own domain, or go on where it stopped.

    example: btm train expert=law trainer.lr=2e-4 trainer.steps=500
    """
    from btm import steps

    sweep(config)
    made = steps.train(config, expert_of(config), out.reporter)
    then = command("merge", expert=made.name, forest=config.forest_root)
    out.line(f"trained {made.path}; next: {then}", made.result)


def merge(config: Config, out: Output) -> None:
    """Check a trained branch and move it into the forest.

    Refused if it is worse than a parent on its own valid split, unless merge.force=true.

    example: btm merge forest=experts/mine expert=law merge.force=true
    """
    from btm import steps

    sweep(config)
    show_elm(steps.merge(config, expert_of(config), out.reporter), out)


def grow(config: Config, out: Output) -> None:
    """Add a domain to a grown forest: prepare its text, branch, train and merge its expert,
    evaluate before and after.

    from=PATH is a file or a folder of text, all of it one domain; without it domain=NAME is one
    that is prepared already. The forest's tokenizer and the settings that it records hold; branch=,
    trainer.steps= and others are yours to give. The table has every domain of the forest, old and
    new; the same command goes on after a stop.

    example: btm grow forest=experts/demo domain=perl from=texts/perl
    """
    from btm import steps

    sweep(config)
    added = steps.add_domain(config, out.reporter)
    if out.as_json:
        return out.line("", added.to_json() | {"file": str(added.file)})
    rows = [
        {
            "domain": change.domain,
            "kind": change.kind,
            "tokens": change.tokens,
            "ppl before": change.before,
            "ppl after": change.after,
            "after / before": change.ratio,
            f"{added.domain} alone": change.expert_alone,
        }
        for change in added.changes
    ]
    out.rows(
        rows,
        f"perplexity of the ensemble, before and after {added.domain!r} joined "
        f"{config.forest_root}",
    )
    out.line(f"numbers: {added.file}", None)


def run(config: Config, out: Output) -> int:
    """Grow a whole forest: prepare, seed, branch, train and merge every expert, average, evaluate.

    cluster=local runs the jobs on this machine, cluster=slurm on a cluster, cluster=debug in this
    process. The same command again goes on where the last one stopped, or watches it if it is still
    at work, and does nothing twice. Ctrl-C leaves the jobs running; btm status shows them, btm
    cancel stops them.

    baseline=X with the words of a forest grows what it is compared with at equal training tokens,
    beside it, in <forest>-X: dense (one LM), dense_large_batch (the paper's), random_split, demix.
    The last two begin with the forest's own seed, so grow the forest first: btm run experiment=demo
    baseline=demix

    It ends with the tables of btm compare where an average or a baseline stands to compare with:
    those of the forest, also after a baseline of it.

    example: btm run experiment=demo
    """
    from btm import steps
    from btm.launch.forecast import too_few_tokens
    from btm.steps import baselines

    if not config.trainer.steps:  # before a baseline's follow from them
        suite = steps.prepare(replace(config, baseline=None), out.reporter)
        config = steps.settled(config, suite, out.reporter)
    words, config = config, baselines.ready(config, out.reporter)
    if config.cluster.kind == "debug":
        if "--detach" in out.flags:
            raise UserError(
                "--detach: cluster=debug runs in this process; give cluster=local or slurm"
            )
        suite = steps.prepare(config, out.reporter)
        if "--regrow" in out.flags:
            steps.regrow(config, suite, out.reporter)
        steps.begin(config, suite)  # what is refused is refused before the note
        if advice := too_few_tokens(config):
            out.reporter.line(f"note: {advice}")
        _show_end(words, config, baselines.run(config, out.reporter), out)
        return 0
    from btm.launch import cycles

    done = cycles.run(
        config,
        out.stderr,
        detach="--detach" in out.flags,
        retry="--retry-failed" in out.flags,
        regrow="--regrow" in out.flags,
    )
    if done is None:
        show = command("status", forest=config.forest_root)
        said = f"started; {show} shows it, btm run with the same words watches it"
        out.line(said, {"started": True})
        return 0
    result = _evaluation(config, out)
    if result is not None:
        _show_end(words, config, result, out)
    return 0 if done else 1


def paper(config: Config, out: Output) -> None:
    """Reproduce the paper's tables: forests and every baseline, several seeds, and a report with
    figures.

    size=smoke takes minutes, small two hours on two cores, day a day, paper a cluster. The same
    command again goes on where the last one stopped.

    example: btm paper size=mini --dry-run
    """
    from btm.paper import reproduce

    folder = reproduce(config, out.reporter)
    out.line(f"report: {folder / 'report.md'}", {"report": str(folder / "report.md")})


def _show_end(words: Config, config: Config, result: Json, out: Output) -> None:
    """Print the evaluation of what was grown with `config`, then the comparison of the forest that
    `words` name.
    """
    found = _comparison(replace(words, baseline=None), out)
    if out.as_json:
        return out.line("", result | ({} if found is None else {"comparison": found.to_json()}))
    show_evaluation(config, result, out)
    if found is not None:
        from btm import steps

        show_comparison(found, steps.compared_file(replace(words, baseline=None)), out)


def _comparison(config: Config, out: Output) -> "Comparison | None":
    """Return the comparison of a forest, None if it does not stand or there is nothing beside it.

    All that it needs was scored by the evaluations, so it only mixes. What stands in its way is
    told, and is no failure of the run.
    """
    from btm import steps
    from btm.forest import Forest

    if not Forest.stands(config.forest_root):
        return None
    forest = Forest(config.forest_root)
    try:
        if not forest.names() or not (steps.rivals(config) or steps.beside(config, forest)):
            return None
        return steps.compare(config, out.reporter)
    except UserError as error:
        print(f"not compared: {error}", file=out.stderr)
        return None


def _evaluation(config: Config, out: Output) -> Json | None:
    """Read the evaluation of a cycle; None, which is told, if what is there is another's."""
    from btm.forest.paths import Paths
    from btm.steps.evaluate import evaluation_stands

    file = Paths(config.forest_root).evaluation(config.eval.name)
    if not file.exists():
        return None
    if not evaluation_stands(config):
        print(
            f"{file} is not shown: it is of other text, ELMs or settings than there are now",
            file=out.stderr,
        )
        return None
    return read_object(file, shards=dict)
