"""The verbs that ask what a forest holds, and those that take away."""

from pathlib import Path
from typing import TYPE_CHECKING

from btm.cli.verbs.output import Output, expert_of, is_named, model_of, show_elm
from btm.config.schema import Config
from btm.errors import UserError, command
from btm.system.json_files import Json

if TYPE_CHECKING:
    from btm.report.tables import TableRow


def ls(config: Config, out: Output) -> None:
    """List the ELMs of a forest, what is derived from them, the branches in the making, and the
    names of its readers.

    Valid nats of an average, student or MoE are the mean over the domains that it was measured on
    when it was made.
    ls.domain, ls.parent, ls.ancestor, ls.name='law*', ls.state, ls.since and ls.before choose;
    ls.sort, ls.reverse and ls.limit order; ls.removed=true lists what was removed too. 10,000 ELMs
    take a fraction of a second. forest=URL lists a remote forest, by its manifests alone.

    example: btm ls forest=experts/demo ls.parent=seed ls.sort=valid_nats ls.limit=20 --json
    """
    from btm.forest import readers
    from btm.interop.remote import urls

    rows = _listed(config)
    shown = rows if out.as_json else [_shortened(row) for row in rows]
    out.rows(shown, f"forest {config.forest_root}", ("sha256", "total tokens", "created"))
    if not urls.is_url(config.forest) and (cards := readers.all_of(Path(config.forest_root))):
        out.line(f"readers: {', '.join(card.name for _, card in cards)} (docs/readers.md)", None)
    for row in rows:
        if "why" in row:
            print(f"damaged: {row['why']}", file=out.stderr)


def _shortened(row: "TableRow") -> "TableRow":
    """Count what a row has many of: an average has as many parents as the forest has experts."""
    shown: dict[str, str] = {}
    for key, word in (("domains", "domains"), ("parents", "models")):
        value = row.get(key)
        if isinstance(value, list | dict) and len(value) > 2:
            shown[key] = f"{len(value)} {word}"
    return row | shown


def _listed(config: Config) -> "list[TableRow]":
    from btm.forest import listing
    from btm.interop import remote
    from btm.interop.remote import urls

    if urls.is_url(config.forest):
        return remote.rows(config.forest_root, config.ls)
    return listing.rows(Path(config.forest_root), config.ls)


def show(config: Config, out: Output) -> None:
    """Show what the card of a model of the forest says.

    expert=NAME is an ELM, or else another model of that name; average=NAME, student=NAME and
    moe=NAME are of that kind.

    example: btm show experiment=demo expert=bible
    """
    from btm.forest import Forest, own_model

    show_elm(own_model(Forest(config.forest_root), model_of(config)), out)


def remove(config: Config, out: Output) -> int:
    """Remove an ELM: delete its weights, leave a tombstone, name whoever inherited parameters from
    it.

    average=NAME deletes an average instead, student=NAME a student, moe=NAME a mixture of experts,
    reader.name=NAME a reader: nothing descends from these, so no tombstone is left. What was
    computed of the weights, scores and Fisher information, goes with them.

    Every descendant is listed with the share of its first parameters that came from the ELM. They
    stay, unless a flag says otherwise.

    The text it was trained on is yours, and is not touched; nor are other ELMs that were trained on
    that text.

    example: btm remove experiment=demo expert=bible remove.reason="the owner opted out" --rederive
    """
    from btm.forest import Forest, readers, removal
    from btm.forest.models import derived_of

    forest = Forest(config.forest_root)
    if (reader := config.reader.name) is not None:
        removal.check_derived(config, f"reader {reader}", out.flags)
        path = readers.remove(forest.root, reader)
        out.line(f"removed {path}", {"removed": str(path)})
        return 0
    if (derived := derived_of(config)) is not None:
        return _remove_derived(config, derived, out)
    name = expert_of(config)
    modes = [
        flag for flag in ("--with-descendants", "--rederive", "--readmit") if flag in out.flags
    ]
    if len(modes) > 1:
        raise UserError(f"{modes[0]} and {modes[1]} exclude each other")
    _require_no_cycle(forest.root)
    forest.sweep()
    if "--readmit" in modes:
        kept = removal.readmit(forest, name)
        out.line(f"{name!r} may be used again; its tombstone: {kept}", {"tombstone": str(kept)})
        return 0
    return _remove(config, out, name, modes[0] if modes else "")


def _remove_derived(config: Config, called: str, out: Output) -> int:
    from btm.forest import Forest, removal

    removal.check_derived(config, called, out.flags)
    path = removal.remove_derived(Forest(config.forest_root), called)
    out.line(f"removed {path}", {"removed": str(path)})
    return 0


def _remove(config: Config, out: Output, name: str, mode: str) -> int:
    from btm.forest import Forest, removal
    from btm.steps import rederive

    forest, reason = Forest(config.forest_root), config.remove.reason
    found = removal.consequences(forest, name)
    made: list[Json] = []
    if mode == "--rederive":
        made = rederive.rederive(config, name, reason=reason, reporter=out.reporter)
    elif mode == "--with-descendants":
        removal.remove_with_descendants(forest, name, reason=reason)
    else:
        removal.remove(forest, name, reason=reason)
    heirs = [
        {
            "what": h.kind,
            "descendant": h.name,
            "weight": h.weight,
            "share": h.share,
            "sha256": h.sha256[:12],
        }
        for h in found.heirs
    ]
    advice = removal.advice(forest.root, name, found, mode)
    failed = [row for row in made if row["now"] == "failed"]
    if out.as_json:
        value = {
            "removed": name,
            "sha256": found.card.sha256,
            "descendants": heirs,
            "made_again": made,
        }
        out.line("", value | {"advice": advice})
        return 1 if failed else 0
    out.line(
        f"removed {name!r} from {forest.root}; tombstone: {forest.paths.tombstone(name)}", None
    )
    if heirs:
        out.rows(
            heirs, "what inherited parameters from it; share: of what it began with, over all paths"
        )
    if made:
        out.rows(made, "made again without it")
    for text in advice:
        out.line(text, None)
    if failed:
        out.line(
            f"{len(failed)} were not made again: mend the cause, then the same command goes on",
            None,
        )
    return 1 if failed else 0


def _require_no_cycle(root: Path) -> None:
    """Raise `UserError` while a cycle of the forest is driven: it would grow what is removed, or on
    top of it.
    """
    from btm.launch import attach
    from btm.launch.records import Records

    if attach.driver_runs(Records(root)):
        first = command("cancel", forest=root)
        raise UserError(f"a cycle is at work in {root}: first {first}, or wait for its end")


def verify(config: Config, out: Output) -> int:
    """Check that a forest is as it was sealed; the exit code is 1 where it is not.

    expert=NAME, average=NAME, student=NAME or moe=NAME: that one alone. Without --full: every card
    and small file, the headers of the weights, and whether parents are what cards say.

    example: btm verify forest=experts/demo --full
    """
    from btm.forest import Forest
    from btm.forest import verify as verification
    from btm.forest.paths import Paths

    root, full = Path(config.forest_root), "--full" in out.flags
    if not root.is_dir() or not (Paths(root).elms.is_dir() or Forest.stands(root)):
        raise UserError(f"no forest in {root}; plant one with: btm seed (or btm run)")
    only = model_of(config) if is_named(config) else None
    with out.reporter.reading("verify", verification.size(root, only) if full else 1) as told:
        found = verification.verify(root, full=full, only=only, told=told)
    damage = [finding for finding in found if not finding.note]
    rows = [
        {
            "what": f.what,
            "is": "note" if f.note else "DAMAGE",
            "problem": f.problem,
            "remedy": f.remedy,
        }
        for f in found
    ]
    what = f"{root}: " + (f"{len(damage)} findings" if damage else "all is as it was sealed")
    if out.as_json or rows:
        out.rows(rows, what)
    else:
        out.line(
            what + ("" if full else " (weights by size and header; --full reads every byte)"), None
        )
    return 1 if damage else 0


def lineage(config: Config, out: Output) -> None:
    """Show what a model or branch descends from and what descends from it; without a name, the
    forest.

    expert=NAME is an ELM, or else what was one, a branch or a derived model; average=NAME,
    student=NAME and moe=NAME are of that kind.
    Beside each edge its weight; in brackets the share of what the descendant began with, over all
    paths. lineage.format=mermaid or graphviz gives a picture's source.

    example: btm lineage forest=experts/demo expert=bible lineage.format=mermaid
    """
    from btm.forest import Forest, drawing
    from btm.forest.lineage import DERIVED, Lineage
    from btm.forest.paths import places_of

    root = Forest(config.forest_root).root
    found = Lineage.of(root)
    keys = sorted(found.nodes)
    named = is_named(config)
    if named:
        places, name = places_of(model_of(config))
        kind = next((kind for kind, place in DERIVED.items() if places == (place,)), None)
        key = found.find(name, str(root), kind).key
        above, below = found.ancestors(key), found.descendants(key)
        keys = [*reversed(above), key, *below]
        if out.as_json:
            rows = [
                *drawing.rows(found, above, "ancestor"),
                *drawing.rows(found, below, "descendant"),
            ]
            return out.line("", rows)
    elif out.as_json:
        return out.line("", drawing.rows(found, dict.fromkeys(keys), "forest"))
    if config.lineage.format == "mermaid":
        return out.line(drawing.mermaid(found, keys), None)
    if config.lineage.format == "graphviz":
        return out.line(drawing.graphviz(found, keys), None)
    out.line(drawing.text(found, key) if named else drawing.forest_text(found), None)


def diff(config: Config, out: Output) -> None:
    """Compare a model with another, or with the average of parents that it began with.

    expert=NAME is an ELM, or else another model of that name; average=NAME, student=NAME and
    moe=NAME are of that kind. against=NAME is any of them, averages/NAME, FOREST:NAME, or a Hugging
    Face model folder with the forest's tokenizer. Shows the fields of their cards that differ and
    the distance ‖a - b‖ / ‖b‖ of each module, or diff.by=tensor.

    example: btm diff forest=experts/demo expert=bible against=seed
    """
    from btm.forest import Forest, own_model
    from btm.forest import diff as comparison

    forest = Forest(config.forest_root)
    name = model_of(config)
    if config.against is not None and not isinstance(config.against, str):
        raise UserError(
            f"against={config.against}: diff compares with one model, give against=NAME"
        )
    size = sum(tensor.size for tensor in comparison.side(own_model(forest, name)).tensors.values())
    with out.reporter.reading("diff", size) as told:
        found = comparison.compare(forest, name, config.against, config.diff.by, told)
    if out.as_json:
        value = {"one": found.one.label, "other": found.other.label, "distance": found.distance}
        return out.line("", value | {"fields": found.fields, "tensors": found.tensors})
    between = f"{found.one.label} against {found.other.label}"
    if found.fields:
        rows = [
            {"field": r["field"], found.one.label: r["one"], found.other.label: r["other"]}
            for r in found.fields
        ]
        out.rows(rows, f"cards: {between}")
    out.rows(found.tensors, f"tensors: {between}; distance of all {found.distance:.3g}")


def gc(config: Config, out: Output) -> None:
    """Delete what nothing needs: scores of weights that are gone, what killed processes left,
    branches of removed ELMs.

    Never a model, an evaluation, or a branch that can become an ELM. --dry-run lists it
    with its size.

    example: btm gc forest=experts/demo --dry-run
    """
    from btm.forest import Forest
    from btm.forest import gc as collection
    from btm.report.progress import bytes_text

    found = collection.collect(Forest(config.forest_root))
    rows = [{"deleted": str(w.path), "bytes": w.size, "why": w.why} for w in found]
    out.rows(rows, f"deleted {bytes_text(sum(w.size for w in found))} from {config.forest_root}")
