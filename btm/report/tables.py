"""Tables for a terminal or a log."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from btm.report import fit
from btm.report.progress import cell

TableRow = dict[str, object]  # one line of a table: {column: value}


def table(
    rows: Sequence[Mapping[str, Any]],
    title: str = "",
    width: int | None = None,
    spare: Sequence[str] = (),
) -> str:
    """Format `rows` as aligned text under their keys; columns of numbers are right-aligned.

    With a `width`, in columns of a terminal, text wraps, and what does not fit all the same is left
    out and named below: the columns `spare` first.
    """
    if not rows:
        return f"{title}: none" if title else "none"
    columns = [_column(key, rows) for key in rows[0]]
    if width is None:
        shown = [(column, column.natural) for column in columns]
    else:
        shown = fit.fit(columns, width, spare)
        title = "\n".join(textwrap.wrap(title, width))
    lines = [title] if title else []
    lines += _drawn(shown)
    kept = [column.name for column, _ in shown]
    if left := [column.name for column in columns if column.name not in kept]:
        note = f"no room for: {', '.join(left)}; a wider terminal, a file or --json shows all"
        lines += textwrap.wrap(note, width or len(note))
    return "\n".join(lines)


def _column(key: str, rows: Sequence[Mapping[str, Any]]) -> fit.Column:
    values = [row.get(key) for row in rows]
    is_number = all(isinstance(value, int | float | None) for value in values)
    return fit.Column(key, tuple(map(cell, values)), is_number)


def _drawn(columns: Sequence[tuple[fit.Column, int]]) -> list[str]:
    """Draw columns of given widths."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, width in columns:
        side: Literal["right", "left"] = "right" if column.is_number else "left"
        head = fit.wrapped_header(column.name, width)
        drawn.add_column(head, justify=side, overflow="fold", width=width)
    for cells in zip(*(column.cells for column, _ in columns), strict=True):
        drawn.add_row(*cells)
    whole = sum(width for _, width in columns) + fit.BETWEEN * len(columns) + fit.EDGES
    console = Console(width=whole, markup=False, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(drawn)
    return [line.rstrip() for line in captured.get().rstrip().splitlines()]


def eval_rows(result: Mapping[str, Any]) -> list[TableRow]:
    """Make the table of an evaluation: one row of perplexities per shard."""
    rows: list[TableRow] = []
    for name, shard in sorted(result["shards"].items(), key=lambda item: item[1]["novel"]):
        experts = {expert: numbers["perplexity"] for expert, numbers in shard["experts"].items()}
        roots = [expert for expert in experts if expert not in shard["prior"]]
        best = min(experts, key=lambda expert: experts[expert])
        rows.append(
            {
                "shard": name,
                "kind": "novel" if shard["novel"] else "trained",
                "tokens": shard["tokens"],
                **{f"{root} ppl": experts[root] for root in roots},
                "best ELM": best,
                "best ppl": experts[best],
                "ensemble ppl": shard["ensemble"]["perplexity"],
                "bits/byte": shard["ensemble"]["bits_per_byte"],
                "top expert": max(
                    shard["mean_posterior"], key=lambda e: shard["mean_posterior"][e]
                ),
            }
        )
    return rows


def model_rows(result: Mapping[str, Any]) -> list[TableRow]:
    """Make the table of the averages and named models of an evaluation, beside ensemble and roots.

    Perplexities are means over domains; [] if the evaluation has no such models.
    """
    others = result.get("models", {})
    if not others:
        return []
    shards = result["shards"].values()
    first = next(iter(shards))
    roots = [elm for elm in first["experts"] if elm not in first["prior"]]
    rows = [("ensemble", "ensemble", [shard["ensemble"] for shard in shards])]
    if all("by_text_alone" in shard for shard in shards):
        # Its prior is not fitted on the domain, nor anything else.
        blind = [shard["by_text_alone"] for shard in shards]
        rows.append(("ensemble, prior=uniform", "by text alone", blind))
    rows += [
        (name, of["kind"], [shard["models"][name] for shard in shards])
        for name, of in others.items()
    ]
    rows += [(name, "root ELM", [shard["experts"][name] for shard in shards]) for name in roots]
    novel = [shard["novel"] for shard in shards]
    return [
        {
            "model": name,
            "kind": kind,
            "trained ppl": _mean(entries, novel, False),
            "novel ppl": _mean(entries, novel, True),
        }
        for name, kind, entries in rows
    ]


def _mean(
    entries: Sequence[Mapping[str, float]], novel: Sequence[bool], wanted: bool
) -> float | None:
    """Average the perplexity over the shards whose novelty is `wanted`; None if there are none."""
    found = [
        e["perplexity"] for e, is_novel in zip(entries, novel, strict=True) if is_novel == wanted
    ]
    return sum(found) / len(found) if found else None


def ledger_rows(result: Mapping[str, Any]) -> list[TableRow]:
    """Make the table of costs of an evaluation: training and inference, for each model.

    Costs of a model from elsewhere are None where they were not recorded.
    """
    ledger = result["ledger"]
    models = [
        ("ensemble", ledger["ensemble"]),
        *ledger["elms"].items(),
        *ledger.get("models", {}).items(),
    ]
    return [
        {
            "model": name,
            "experts run": costs["experts_run"],
            "training tokens": costs["training"] and costs["training"]["tokens"],
            "training FLOPs": costs["training"] and f"{costs['training']['flops']:.3g}",
            "FLOPs/token": f"{costs['inference_flops_per_token']:.3g}",
        }
        for name, costs in models
    ]
