"""--dry-run: show the plans of the steps that a command would take, and write nothing.

The plans are the steps' own: ``plan_of_<step>`` beside each step in `btm.steps`.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from btm import steps
from btm.cli.preflight.names import rounds
from btm.cli.verbs.output import Output, expert_of
from btm.config.schema import Config
from btm.data import amounts
from btm.data import prepare as preparation
from btm.data.domains import find
from btm.errors import UserError
from btm.forest import Forest, gc, removal, verify
from btm.forest.models import derived_of
from btm.forest.paths import Paths
from btm.forest.suites import data_of
from btm.interop import formats, remote
from btm.report.progress import Lines, bytes_text, count_text, duration
from btm.report.tables import TableRow
from btm.serve.plan import plan_of_serve
from btm.steps import Plan, proposal, rederive
from btm.steps.costs import priced
from btm.steps.evaluate import check_text


def plan(verb: str, config: Config, flags: Collection[str] = ()) -> list[TableRow]:
    """Make one row for each thing that ``btm <verb>`` would do with `config` and `flags`."""
    if verb == "run":
        return _run(config, flags)
    if verb == "paper":
        from btm import paper

        return paper.plan(config)
    plans = _remove(config, flags) if verb == "remove" else _PLANS.get(verb, _reads)(config)
    rows = [_row(priced(config, each)) for each in plans]
    warnings: list[TableRow] = [
        {"step": "warning", "name": each.name, "what": text}
        for each in plans
        for text in each.warnings()
    ]
    return rows + warnings


def show(rows: Sequence[TableRow], output: Output) -> None:
    """Print the rows of `plan`: for people a table, then its notes and warnings as sentences."""
    if output.as_json:
        output.rows(rows, "would do")
        return
    sentences = [row for row in rows if _kind(row) in ("note", "warning")]
    jobs = collapsed([row for row in rows if row not in sentences])
    output.rows(readable(jobs), "would do")
    for row in sentences:
        output.paragraph(f"{_kind(row)}: {row['what']}")


def collapsed(rows: Sequence[TableRow], most: int = 4) -> list[TableRow]:
    """Write more than `most` jobs in turn that prepare, train or score as one, if they differ in
    nothing but the domain.
    """
    found: list[TableRow] = []
    for _, group in groupby(rows, _but_name):
        alike = list(group)
        if len(alike) <= most or _step_of(alike[0]) not in _EACH:
            found += alike
            continue
        first, last = alike[0], alike[-1]
        job = f"{first['job']} … {last['job']} ({len(alike)})"
        found.append(first | {"job": job, "what": f"{first['what']}, each"})
    return found


def _but_name(row: TableRow) -> TableRow:
    """Return a row with the step in place of the job's name (STEP-DOMAIN, STEP DOMAIN)."""
    return row | {"job": _step_of(row)}


def _step_of(row: TableRow) -> str:
    return re.split(r"[ -]", str(row.get("job", "")), maxsplit=1)[0]


def _kind(row: TableRow) -> object:
    return row.get("job") or row.get("step")


def readable(rows: Sequence[Mapping[str, Any]]) -> list[TableRow]:
    """Format rows of `plan` for a terminal: amounts in units, columns without a value left out."""
    shown = [
        {key: _UNITS[key](v) if key in _UNITS and v is not None else v for key, v in row.items()}
        for row in rows
    ]
    filled = [key for key in shown[0] if any(row.get(key) not in (None, "", {}) for row in shown)]
    return [{key: row.get(key) for key in filled} for row in shown]


def _row(each: Plan) -> TableRow:
    return {
        "step": each.step,
        "name": each.name,
        "what": each.what,
        "tokens": each.tokens,
        "epochs": dict(each.epochs) or None,
        "flops": each.flops,
        "disk bytes": each.disk_bytes,
        "seconds": each.seconds,
        "writes": [str(path) for path in each.writes],
    }


def _flops(count: float) -> str:
    text = count_text(count)  # "18.4 T", or "0"
    return f"{text}FLOP" if text[-1].isalpha() else f"{text} FLOP"


def _epochs(epochs: Mapping[str, float]) -> str:
    return ", ".join(f"{domain} {passes:.2g}" for domain, passes in epochs.items())


_EACH = ("prepare", "train", "score")  # the steps of which a cycle has one for each domain
_UNITS: dict[str, Callable[[Any], str]] = {
    "tokens": count_text,
    "epochs": _epochs,
    "flops": _flops,
    "disk bytes": bytes_text,
    "seconds": duration,
    "seconds here": duration,
    "writes": lambda paths: "",  # a list for programs; the words name what matters
}


def _reads(config: Config) -> list[Plan]:
    return [Plan("nothing", "", "this verb only reads")]


def _prepare(config: Config) -> list[Plan]:
    folder = Path(config.data.out) / config.data.name
    plans = [
        Plan(
            "prepare", each.domain, each.what, writes=() if each.stands else (folder / each.domain,)
        )
        for each in preparation.plan(data_of(config))
    ]
    beside = preparation.unread(config.data).get("")
    note = Plan("not read", str(config.data.root), f"beside the domains: {beside}")
    return [*plans, note] if beside else plans


def _seed(config: Config) -> list[Plan]:
    return [steps.plan_of_seed(config)]


def _branch(config: Config) -> list[Plan]:
    name = expert_of(config)
    return [steps.plan_of_branch(config, name, config.domain or name)]


def _train(config: Config) -> list[Plan]:
    return [steps.plan_of_train(config, expert_of(config))]


def _report(config: Config) -> list[Plan]:
    return [steps.plan_of_report(config)]


def _merge(config: Config) -> list[Plan]:
    return [steps.plan_of_merge(config, expert_of(config))]


def _grow(config: Config) -> list[Plan]:
    steps.new_domain(config)
    text = _prepare(steps.text_of(config)) if config.imports.source else []
    return [*text, *steps.plan_of_add_domain(config)]


def _evaluate(config: Config) -> list[Plan]:
    return [steps.plan_of_eval(config)]


def _average(config: Config) -> list[Plan]:
    return [steps.plan_of_average(config)]


def _mix(config: Config) -> list[Plan]:
    return [steps.plan_of_mix(config)]


def _distil(config: Config) -> list[Plan]:
    return [steps.plan_of_distil(config)]


def _moe(config: Config) -> list[Plan]:
    return [steps.plan_of_moe(config)]


def _generate(config: Config) -> list[Plan]:
    return [steps.plan_of_generate(config)]


def _import(config: Config) -> list[Plan]:
    name, domains = formats.imported_as(config)
    root, whole = config.forest_root, config.format in ("hf", "fairseq")
    if whole and Forest.stands(root) and formats.standing(config, Forest(root), name):
        return [Plan.nothing("import", name)]
    as_what = f"an expert of {domains[0]}" if domains else "a seed"
    what = f"check {config.imports.source} and add it to {config.forest_root} as {as_what}"
    target = Paths(config.forest_root).elm(name).path
    return [Plan("import", name, what, writes=(target,))]


def _export(config: Config) -> list[Plan]:
    source = formats.exported(config)
    what = f"write {source} as {config.format} to {config.to or 'the screen'}"
    target = (Path(config.to),) if config.to else ()
    return [Plan("export", source.name, what, reads=(source,), writes=target)]


def _push(config: Config) -> list[Plan]:
    rows = remote.push_preview(config)
    return [
        Plan("push", each.model, f"{each.state}: {bytes_text(each.sent)} to {config.to}")
        for each in rows
    ]


def _pull(config: Config) -> list[Plan]:
    root, rows = Path(config.forest_root), remote.pull_preview(config)
    source = config.imports.source
    return [
        Plan(
            "pull",
            each.model,
            f"{each.state}: {bytes_text(each.fetched)} from {source}",
            writes=(root / each.model,) if each.fetched else (),
        )
        for each in rows
    ]


def _discover(config: Config) -> list[Plan]:
    if config.data.root is None:
        raise UserError("data.root is missing: discovery needs data=folder data.root=DIR")
    sources, target = find(Path(config.data.root), config.data), Path(config.discover_target)
    if target.exists():
        raise UserError(f"{target} stands there already; give another discover.out=DIR")
    what = (
        f"cluster the documents of {len(sources)} sources in {config.data.root} into "
        f"{config.discover.k} domains"
    )
    return [Plan("discover", str(target), what, writes=(target,))]


def _cancel(config: Config) -> list[Plan]:
    Forest(config.forest_root)
    what = f"the job of {config.expert}" if config.expert else "the cycle"
    text = f"stop {what} after a checkpoint, if it is at work"
    return [Plan("cancel", config.forest_root, text)]


def _run(config: Config, flags: Collection[str]) -> list[TableRow]:
    """Make a row for each job of a cycle; the text that it prepares and warnings come first."""
    from btm.launch.forecast import forecast, too_few_tokens, too_many_epochs
    from btm.steps.baselines import derive

    first: list[TableRow] = [
        {"job": f"{each.step} {each.name}", "what": each.what} for each in _prepare(config)
    ]
    if not config.trainer.steps:
        config, notes = _with_steps(config)
        first += [{"job": "note", "what": text} for text in notes]
    derived = derive(config)
    going = _regrow(derived) if "--regrow" in flags else []
    first += [{"job": f"remove {each.name}", "what": each.what} for each in going]
    rows = forecast(derived, rounds(derived), {each.name for each in going})
    if config.baseline == "random_split":
        what = f"documents at random, where missing: {derived.data.name}"
        first.append({"job": "deal", "what": what})
    if text := too_few_tokens(config):
        first.append({"job": "note", "what": text})
    if not going:
        first += [{"job": "note", "what": text} for text in _text_that_stands(config, derived)]
    texts = too_many_epochs(derived, rounds(derived))
    first += [{"job": "warning", "what": text} for text in texts]
    return [dict.fromkeys(rows[0]) | row for row in first] + rows


def _with_steps(config: Config) -> tuple[Config, list[str]]:
    """Propose trainer.steps, and say why; of text that is still to be prepared by its size."""
    data, more = data_of(config), []
    packings = preparation.plan(data)
    if all(each.stands for each in packings):
        found = proposal.of_suite(config, steps.open_suite(config))
    else:
        domains = [domain for each in rounds(config) for domain in each]
        tokens = {each.domain: each.train_tokens for each in packings}
        text = sum(tokens.get(domain) or amounts.of(data, domain) for domain in domains)
        found = proposal.propose(config, domains, text)
        counted = "until btm prepare has counted them"
        more = [f"about: {amounts.BYTES_PER_TOKEN} bytes a token, {counted}"]
    notes = [line.strip() for line in found.lines]
    return replace(config, trainer=replace(config.trainer, steps=found.steps)), notes + more


def _regrow(config: Config) -> list[Plan]:
    """Plan what --regrow removes; the text must be packed, to be compared with that of ELMs."""
    if any(each.writes for each in _prepare(config)):
        raise UserError("--regrow --dry-run: the text is not prepared yet: first btm prepare")
    return steps.plan_of_regrow(config, steps.open_suite(config))


def _text_that_stands(config: Config, derived: Config) -> list[str]:
    """Say what of its text each ELM that stands knows; refuse what `run` would, where it is packed.

    Text that is still to be packed cannot be told yet, nor what is dealt from it.
    """
    packed = all(each.stands for each in preparation.plan(data_of(config)))
    if not packed or config.baseline == "random_split":
        return []
    lines = Lines()
    domains = [domain for each in rounds(derived) for domain in each]
    check_text(derived, steps.open_suite(derived), domains, lines)
    return lines.said


def _remove(config: Config, flags: Collection[str]) -> list[Plan]:
    if (derived := derived_of(config)) is not None:
        removal.check_derived(config, derived, flags)
        path = verify.folder_of(Forest(config.forest_root).root, derived)
        return [Plan("remove", path.name, f"delete {path} and its scores")]
    forest, name = Forest(config.forest_root), expert_of(config)
    found = removal.consequences(forest, name)
    if "--readmit" in flags:
        return [Plan("remove", name, "let the name be used again; nothing comes back")]
    if "--rederive" in flags:
        rederive.make_plan(config, forest, name)
    plans = [Plan("remove", name, "delete its weights and scores, leave a tombstone")]
    fate = "make it again without" if "--rederive" in flags else "stays, with parameters from"
    fate = "delete it, as it descends from" if "--with-descendants" in flags else fate
    for heir in found.heirs:
        share = "an unknown share" if heir.share is None else f"a share of {heir.share:.4g}"
        plans.append(Plan(heir.kind, heir.name, f"{fate} {name}: {share}"))
    return plans


def _gc(config: Config) -> list[Plan]:
    found = gc.find(Forest(config.forest_root))
    plans = [
        Plan("delete", str(waste.path), f"{bytes_text(waste.size)}: {waste.why}") for waste in found
    ]
    return plans or [Plan("nothing", "", "everything is needed")]


def _read(config: Config, verb: str) -> list[Plan]:
    from btm.readers import compare
    from btm.readers import steps as readers

    if verb == "read compare":
        return compare.plan_of_compare(config)
    return [readers.plan_of_train(config) if verb == "read train" else readers.plan_of_eval(config)]


def _commons(config: Config, verb: str) -> list[Plan]:
    """Plan a verb of a commons by its words alone: the store is not asked."""
    what = {
        "init": f"push what branches begin with, and publish a charter at {config.to}",
        "join": "register a key, measure this machine" + (", claim" if config.domain else ""),
        "train": "claim, branch, train and merge here; upload checkpoints",
        "submit": "send the expert's difference from its parents",
        "admit": "judge what was submitted; merge and publish it, or reject it",
        "reject": "reject what was submitted",
        "leave": "give the claim back, or withdraw the expert",
        "remove": "delete a withdrawn expert here and at the store, leave tombstones",
        "revoke": f"declare the key {config.commons.revoked} no longer trusted",
    }[verb]
    return [Plan(f"commons {verb}", config.domain or "", what)]


_OF_COMMONS = (
    *("init", "join", "train", "submit", "admit"),
    *("reject", "leave", "remove", "revoke"),
)


_PLANS: dict[str, Callable[[Config], list[Plan]]] = {
    "prepare": _prepare,
    "seed": _seed,
    "branch": _branch,
    "train": _train,
    "merge": _merge,
    "grow": _grow,
    "score": steps.plan_of_score,
    "eval": _evaluate,
    "compare": steps.plan_of_compare,
    "bench": steps.plan_of_bench,
    "average": _average,
    "mix": _mix,
    "report": _report,
    **{
        f"read {name}": partial(_read, verb=f"read {name}") for name in ("train", "eval", "compare")
    },
    **{f"commons {name}": partial(_commons, verb=name) for name in _OF_COMMONS},
    "distil": _distil,
    "moe": _moe,
    "generate": _generate,
    "serve": plan_of_serve,
    "import": _import,
    "export": _export,
    "push": _push,
    "pull": _pull,
    "discover": _discover,
    "cancel": _cancel,
    "gc": _gc,
}
