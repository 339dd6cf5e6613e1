"""The model card for people, README.md: metadata for the Hugging Face Hub, then the facts in words.

See https://huggingface.co/docs/hub/model-cards. Names and notes come from folders and users: in the
metadata each is a double-quoted YAML string, in the text its Markdown is escaped. base_model is
left out: it names a repository of the Hub, and a parent is a folder of a forest.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from btm.config.card import is_language
from btm.config.choices import LICENSES
from btm.forest.card import Card
from btm.forest.index import AVERAGE, ELM, MOE, STUDENT
from btm.system.json_files import Json

# What a model is, in words, and the further tags of the Hub that fit it.
_KINDS = {
    ELM: ("An expert language model (ELM)", ()),
    AVERAGE: ("An average of expert language models", ("merge", "model-average")),
    STUDENT: ("A student, distilled from the expert language models", ("distillation",)),
    MOE: ("A mixture of experts (MoE) made of the expert language models", ("merge", "moe")),
}


def readme(card: Card, kind: str = ELM) -> str:
    """Write the README.md of an ELM, or of a model of another `kind` (`index.PLACES`)."""
    said, _ = _KINDS[kind]
    parts = [
        f"---\n{_metadata(card, kind)}---\n",
        f"# {_plain(card.name)}\n",
        f"{said} of a Branch-Train-Merge forest ([arXiv "
        "2208.03306](https://arxiv.org/abs/2208.03306)).\n",
        _facts(card, kind),
        f"## Lineage\n\n{_lineage(card)}",
        f"## Data\n\n{_data(card)}",
        f"## Perplexity\n\n{_perplexity(card) if kind == ELM else _measured(card)}",
        f"## Use\n\n{_use(card, kind)}",
        f"## Licence\n\n{_licence(card)}",
    ]
    if card.use:
        parts.append(f"## Intended use\n\n{_plain(card.use)}\n")
    if card.restrictions:
        lines = "".join(f"- {_plain(text)}\n" for text in card.restrictions)
        parts.append(f"## Restrictions\n\n{lines}")
    return "\n".join(parts)


def _metadata(card: Card, kind: str) -> str:
    """Write the block of YAML; values from outside are JSON strings, which YAML reads."""
    tags = [
        "branch-train-merge",
        "expert-language-model",
        *_KINDS[kind][1],
    ]
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if card.license in LICENSES:
        lines += [f"license: {_quoted(card.license)}"]
    elif card.license:
        lines += ["license: other", f"license_name: {_quoted(card.license)}"]
    if languages := list(filter(is_language, card.languages)):
        lines += ["language:", *(f"- {_quoted(tag)}" for tag in languages)]
    lines += ["tags:", *(f"- {tag}" for tag in tags)]
    results = {domain: part.nats for domain, part in card.measured.items()}
    if kind == ELM and card.valid_nats is not None and card.domains:
        results = {card.domains[0]: card.valid_nats}
    if results:
        lines += ["model-index:", f"- name: {_quoted(card.name)}", "  results:"]
    for domain, nats in results.items():
        lines += [
            "  - task:",
            "      type: text-generation",
            "    dataset:",
            f"      name: {_quoted(domain + ', valid split')}",
            f"      type: {_quoted(domain)}",
            "      split: valid",
            "    metrics:",
            "    - type: perplexity",
            f"      value: {_perplexity_of(nats):.4f}",
            "      name: Perplexity per token",
        ]
    return "\n".join(lines) + "\n"


def _facts(card: Card, kind: str) -> str:
    total = (
        f"{card.total_tokens:,} tokens, {card.total_flops:.3g} FLOPs" if card.total_tokens else ""
    )
    own = (
        f"{card.steps:,} steps, {card.tokens:,} tokens, {card.flops:.3g} FLOPs"
        if card.steps
        else f"none of its own; {card.tokens:,} tokens were read, {card.flops:.3g} FLOPs"
        if card.tokens
        else "none of its own"
    )
    facts = {
        "domains": ", ".join(map(_plain, card.domains)) or "none of its own",
        "training": own,
        "training, ancestors included": total,
        "parameters": f"{card.parameters:,}",
        "differs from its parents in": _sparse(card.delta),
        "adapter": _adapter(card.adapter),
        "weights": f"sha256 `{_code(card.sha256)}`",
        "tokenizer": f"sha256 `{_code(card.tokenizer_sha256)}`",
        "imported from": _plain(card.source),
        "merged" if kind == ELM else "made": _plain(card.created)
        + (", although worse than a parent" if card.forced else ""),
        "made with": ", ".join(
            f"{_plain(name)} {_plain(version)}" for name, version in card.versions.items()
        ),
        "notes": "; ".join(map(_plain, card.notes)),
    }
    return "\n".join(f"- **{key}**: {value}" for key, value in facts.items() if value) + "\n"


def _sparse(delta: Json) -> str:
    """Say how sparse an expert is; an empty string for a dense one."""
    try:
        found, free, density = delta["nonzeros"], delta["budget"], delta["density"]
        return f"{found:,} parameters, of {free:,} that were free to (density {density:g})"
    except (KeyError, ValueError, TypeError):
        return ""


def _adapter(adapter: Json) -> str:
    """Say which adapter an expert is its parents and; an empty string for one without."""
    try:
        kind, rank, found = adapter["kind"], adapter["rank"], adapter["parameters"]
        layers = ", ".join(map(_plain, adapter["targets"]))
        return (
            f"{_plain(kind)} of rank {rank}, alpha {adapter['alpha']:g}, on {layers}: {found:,} "
            "parameters; the weights here are the sum of its parents' and its products"
        )
    except (KeyError, ValueError, TypeError):
        return ""


def _lineage(card: Card) -> str:
    if not card.parents:
        return "A root: it has no parents.\n"
    how = f" ({_plain(card.estimator)})" if card.estimator not in ("", "given") else ""
    said = (
        "It began as the weighted average of its parents, by "
        f"`{_code(card.branch_method)}`{how}.\n\n"
    )
    if card.recipe:
        recipe = ", ".join(
            f"{_plain(key)} {_plain(json.dumps(value))}" for key, value in card.recipe.items()
        )
        said = (
            f"It was made of its parents, weighted by `{_code(card.branch_method)}`{how}: "
            f"{recipe}.\n\n"
        )
        if card.branch_method == "distil":
            # Parents with a weight are those it began with the parameters of.
            said = f"It was distilled from what its teachers predict together: {recipe}.\n\n"
    parents = [
        (name, f"{p.weight:.4f}", f"`{_code(p.sha256[:12])}`") for name, p in card.parents.items()
    ]
    text = said + _table(("parent", "weight", "sha256"), parents)
    further = [spent for spent in card.ancestors if spent.name not in card.parents]
    if further:
        rows = [
            (spent.name, f"{spent.tokens:,}", f"`{_code(spent.sha256[:12])}`") for spent in further
        ]
        text += "\n" + _table(("further ancestor", "tokens", "sha256"), rows)
    return text


def _data(card: Card) -> str:
    text = "It was trained on no text itself.\n"
    if card.data:
        rows = [(domain, f"`{_code(sha256)}`") for domain, sha256 in card.data.items()]
        text = _table(("domain", "sha256 of the training shard"), rows)
    if card.languages:
        text += f"\nLanguages: {', '.join(map(_plain, card.languages))}.\n"
    if card.sources:
        sources = [(s.name, s.license or "not stated", s.url) for s in card.sources]
        text += "\nSources, its ancestors' among them:\n\n"
        text += _table(("source", "licence", "address"), sources)
    return text


def _perplexity(card: Card) -> str:
    if card.valid_nats is None:
        return "Not measured when it was made.\n"
    domain = card.domains[0] if card.domains else "its domain"
    rows = [(card.name, f"{_perplexity_of(card.valid_nats):.4g}", f"{card.valid_nats:.4f}")]
    rows += [
        (f"parent {n}", f"{_perplexity_of(nats):.4g}", f"{nats:.4f}")
        for n, nats in card.parent_valid_nats.items()
    ]
    said = f"Per token, on the valid split of {_plain(domain)}, as measured when it was merged.\n\n"
    return said + _table(("model", "perplexity", "nats/token"), rows)


def _measured(card: Card) -> str:
    """Tabulate the losses of a derived model and the seeds when it was made, by domain and mean."""
    if not card.measured or card.valid_nats is None:
        return "Not measured when it was made; `btm eval` measures it.\n"
    seeds = card.seed_nats
    heads = ["domain", "tokens", "perplexity", "nats/token"]
    heads += [f"{seed}: {what}" for seed in seeds for what in ("perplexity", "nats/token")]
    rows = []
    for domain, part in card.measured.items():
        rows.append(
            [domain, f"{part.tokens:,}", *_both([part.nats, *(part.seeds[seed] for seed in seeds)])]
        )
    if len(rows) > 1:
        rows.append(["mean nats", "", *_both([card.valid_nats, *seeds.values()])])
    windows = " or ".join(
        str(window) for window in sorted({part.window for part in card.measured.values()})
    )
    said = (
        f"Per token, on valid splits{_texts(card)}, in windows of {windows} tokens, as measured "
        "when it was made or since.\n\n"
    )
    worse = [seed for seed, nats in seeds.items() if card.valid_nats >= nats]
    verdict = f"\nOn these it is no better than {', '.join(map(_plain, worse))}.\n" if worse else ""
    return said + _table(heads, rows) + verdict


def _texts(card: Card) -> str:
    """Name the text that losses are of, by the beginning of each shard's sha256."""
    known = [f"{_plain(d)} `{part.shard[:12]}`" for d, part in card.measured.items() if part.shard]
    return f" ({', '.join(known)})" if known else ""


def _both(losses: Iterable[float]) -> list[str]:
    """Format each loss as perplexity and as nats."""
    return [text for nats in losses for text in (f"{_perplexity_of(nats):.4g}", f"{nats:.4f}")]


def _perplexity_of(nats: float) -> float:
    return math.exp(min(nats, 700.0))  # beyond this a float has no number for it


def _use(card: Card, kind: str) -> str:
    name = _code(card.name)
    inside = (
        ""
        if kind != ELM
        else f'''
As one expert of its forest:

```python
from btm import Forest

model = Forest("path/to/forest")["{name}"].load()
```
'''
    )
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/{name}")
tokenizer = AutoTokenizer.from_pretrained("path/to/{name}")
```
{inside}"""


def _licence(card: Card) -> str:
    text = f"{_plain(card.license)}\n"
    if not card.license:
        text = (
            "None was stated. The licences of the text it was trained on, and of its ancestors, "
            "may bind its use.\n"
        )
    if card.ancestor_licenses:
        text += "\n" + _table(("ancestor", "licence"), card.ancestor_licenses.items())
    return text


def _table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *([_cell(str(value)) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return text if text.startswith("`") else _plain(text)


def _plain(text: str) -> str:
    """Escape a text, so that Markdown shows it as it is, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&~$])", r"\\\1", " ".join(_printable(text).split()))


def _code(text: str) -> str:
    """Strip a text of what cannot stand between backticks or quotes."""
    return re.sub(r"[^\w.:/+ -]", "", " ".join(text.split()), flags=re.ASCII)


def _quoted(text: str) -> str:
    """Quote a text as a double-quoted YAML string."""
    return json.dumps(_printable(" ".join(text.split())), ensure_ascii=False)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
