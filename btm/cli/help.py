"""The pages of `--help`: the overview of all verbs, and for one verb its examples and its keys."""

import inspect
import re
import textwrap
from typing import Any

from btm.cli.compose import ALIASES, all_keys, compose, conf_folder
from btm.cli.flags import FLAGS_OF
from btm.config.keys import Key, keys_of
from btm.config.schema import Config

_WIDTH = 98  # of a page, in columns
_INDENT = 32  # of the meanings, in columns
_LONGEST = 40  # default that is printed, in characters

OVERVIEW = """btm: Branch-Train-Merge, forests of expert language models

usage: btm <verb> [key=value ...] [--dry-run] [--json] [--debug]

  prepare   text -> token shards             btm prepare data=folder data.root=texts data.name=mine
  discover  unlabelled text -> domains       btm discover data=folder data.root=texts discover.k=8
  seed      train or import the first ELM    btm seed experiment=demo model=tiny
  branch    initialise a new ELM             btm branch expert=law branch=posterior
  train     train it on its domain           btm train expert=law trainer.lr=2e-4
  merge     check it and add it to the set   btm merge expert=law
  grow      a new domain: all of these       btm grow forest=experts/demo domain=perl from=perl
  score     cache token log-probabilities    btm score score.splits=[test]
  eval      ensemble against every ELM       btm eval ensemble=tracking ensemble.top_k=4
  compare   forest, averages, baselines      btm compare experiment=demo
  bench     tasks of lm-eval-harness         btm bench forest=experts/demo bench.limit=100
  average   several ELMs into one model      btm average weights='{law: 0.7, med: 0.3}'
  mix       data mixtures, before training   btm mix domain=novels mix.samples=50
  distil    the ensemble into one model      btm distil student=small distil.steps=500
  moe       ELMs as experts of one model     btm moe moe=mine moe.router=ridge
  import    a Hugging Face model comes in    btm import from=DIR name=law domain=law
  export    an ELM or an average goes out    btm export average=fitted to=DIR
  push      models go to a remote forest     btm push forest=experts/demo to=s3://bucket/demo
  pull      models come from a remote        btm pull from=s3://bucket/demo forest=experts/demo
  generate  the ensemble goes on with text   btm generate prompt="In the beginning" domain=bible
  serve     an OpenAI-compatible server      btm serve forest=experts/demo
  read train   a reader of questions         btm read train reader=link_prediction reader.data=DIR
  read eval    how good one is               btm read eval reader.name=conve
  read answer  let one answer                btm read answer reader.question="cuba embassy ?"
  read compare forest, average, seed, …      btm read compare reader=nli reader.data=DIR
  read audit   leaks of a graph              btm read audit reader.data=DIR
  commons init   open a commons for a forest  btm commons init to=URL commons.wanted='{law: 900000}'
  commons join   take part, claim a domain    btm commons join from=URL domain=law
  commons train  on your own text             btm commons train domain=law data.root=texts
  commons submit send the expert              btm commons submit domain=law
  commons review what was submitted           btm commons review forest=experts/mine
  commons admit  merge what passes            btm commons admit forest=experts/mine
  commons reject for a reason                 btm commons reject domain=law commons.reason=TEXT
  commons status who does what, how far       btm commons status from=URL
  commons leave  give a claim back            btm commons leave domain=law
  commons remove a withdrawn expert           btm commons remove domain=law forest=experts/mine
  commons revoke a key          btm commons revoke commons.revoked=ffeeddccbbaa99887766554433221100
  report    the forest as one HTML page      btm report forest=experts/demo
  run       all of it, as jobs               btm run experiment=demo cluster=slurm
            or what it is compared with      btm run experiment=demo baseline=dense
  paper     the paper's tables, from nothing btm paper size=smoke
  status    the jobs of a cycle              btm status forest=experts/demo
  watch     the cycle while it runs          btm watch forest=experts/demo
  logs      what a job says                  btm logs -f expert=law
  cancel    stop a cycle, or one job         btm cancel expert=law
  ls        ELMs and averages of a forest    btm ls forest=experts/demo
  show      the card of an ELM or average    btm show expert=law --json
  verify    whether all is as it was sealed  btm verify --full
  lineage   ancestors and descendants        btm lineage expert=law lineage.format=mermaid
  diff      two models, tensor by tensor     btm diff expert=law against=seed
  remove    an ELM, and who inherited        btm remove expert=law --rederive
  gc        what nothing needs               btm gc --dry-run
  doctor    what this machine offers         btm doctor
  completion  Tab completes words in a shell btm completion bash

  --dry-run   say what would be done, write nothing
  --json      print results as JSON
  --debug     show tracebacks
  --detach    run: start and return          --retry-failed   run: try again what failed
  --regrow    run: grow anew what differs    --full           verify: read every byte
  --rederive, --with-descendants, --readmit   remove: descendants, name
  btm <verb> --help lists the keys that the verb reads, with their defaults; --all: every key

Start with: btm run experiment=demo
"""


def verbs_of(group: str) -> list[str]:
    """List the second words of a group's verbs: `train`, `eval`, … of `read`."""
    return re.findall(rf"^  {group} (\w+)", OVERVIEW, re.MULTILINE)


def of_group(group: str) -> str:
    """Describe a group of verbs by the overview's lines on them."""
    rows = re.findall(rf"^  {group} .*$", OVERVIEW, re.MULTILINE)
    last = f"btm {group} <verb> --help describes one: examples, what it does, its keys"
    return "\n".join([f"btm {group} <verb> [key=value ...]", "", *rows, "", last])


def of_verb(verb: str, doc: str, *, in_full: bool) -> str:
    """Describe a verb: examples, what it does (its docstring `doc`), the bundles, and the keys that
    it reads, with the defaults in force once `conf/` is composed; `in_full`: all keys.
    """
    lines = [f"btm {verb} [key=value ...]", ""]
    lines += [f"  {example}" for example in examples(verb, doc)]
    lines += ["", about(doc)]
    if own := FLAGS_OF.get(verb):
        lines += ["", "flags of its own:"]
        lines += [_wrapped(flag, meaning) for flag, meaning in own.items()]
    lines += ["", "bundles:"]
    lines += [_wrapped(f"{name}=", options) for name, options in bundles().items()]
    lines += ["", "keys and defaults:" if in_full else f"keys that btm {verb} reads, and defaults:"]
    lines += _key_lines(verb, in_full=in_full)
    lines += [
        "",
        "Words of a cycle (data, model, trainer, seed, cluster, …) are accepted by every verb, so",
        "that one block of words serves all steps; any other key that the verb does not read is an",
        "error." + ("" if in_full else " --help --all lists every key."),
    ]
    return "\n".join(lines)


def about(doc: str) -> str:
    """Say what a verb does: its docstring without the examples."""
    return re.sub(r"^example: .*\n?", "", inspect.cleandoc(doc), flags=re.M).strip()


def examples(verb: str, doc: str) -> list[str]:
    """List the examples of a verb: those of its docstring, then those of the overview."""
    found = re.findall(r"^ *example: (.*)$", doc, re.MULTILINE)
    found += re.findall(rf"^  .* (btm {verb}\b.*)$", OVERVIEW, re.MULTILINE)
    return list(dict.fromkeys(found))


def bundles() -> dict[str, str]:
    """Map each group of `conf/` to the names of its bundles, as one line."""
    return {
        folder.name: ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        for folder in sorted(conf_folder().iterdir())
        if folder.is_dir()
    }


def keys_in_force() -> list[tuple[Key, Any]]:
    """List every key, those of no section first, with its default once `conf/` is composed."""
    # "ls" takes nothing from a forest: what one forest records is no default.
    defaults = all_keys(compose([], "ls"))
    keys = sorted(keys_of(Config()), key=lambda key: "." in key.name)
    return [(key, defaults[key.name]) for key in keys]


def shown_name(key: Key) -> str:
    """Name a key as a command line does: `seed.from` for the field seed.source."""
    return next((alias for alias, name in ALIASES.items() if name == key.name), key.name)


def shown_value(value: Any) -> str:
    """Write a default as a command line gives it: null, true, [valid,test]; `{…}` if it is long."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case "":
            return "''"
        case list():
            return f"[{','.join(map(shown_value, value))}]"
    text = str(value)
    return "{…}" if isinstance(value, dict) and len(text) > _LONGEST else text


# What a key takes, by its type as written; null, where it may be, is in its meaning.
_KINDS = {
    "bool": "true or false",
    "int": "whole number",
    "float": "number",
    "str": "word",
    "list[int]": "list of whole numbers",
    "list[float]": "list of numbers",
    "list[str]": "list of words",
    "list[list[str]]": "list of lists of words",
    "dict[str, Any]": "mapping",
}


def _key_lines(verb: str, *, in_full: bool) -> list[str]:
    """List keys with defaults, meanings and choices, a blank line between sections.

    Sections inside a section that have the same keys are listed once, under all their names.
    """
    from btm.cli.verbs import reads

    sections: dict[str, list[str]] = {}
    for key, value in keys_in_force():
        if in_full or reads.reads(verb, key.name):
            section, _, name = shown_name(key).rpartition(".")
            left = f".{name}" if "." in section else shown_name(key)
            line = _wrapped(f"{left}={shown_value(value)}", meaning(key) + _kind(key))
            sections.setdefault(section, []).append(line)
    titles: dict[tuple[str, ...], list[str]] = {}
    for section, rows in sections.items():
        titles.setdefault(tuple(rows), []).append(section)
    lines = []
    for own, names in titles.items():
        lines += ["", *([f"  {', '.join(names)}:"] if "." in names[0] else []), *own]
    return lines


def meaning(key: Key) -> str:
    """Write the meaning of a key, and its choices in brackets."""
    choices = f" ({', '.join(map(str, key.choices))})" if key.choices else ""
    return key.meaning + choices


def _kind(key: Key) -> str:
    """Write what a key takes in brackets, where it has no choices that say it."""
    if key.choices or key.type == "Any":
        return ""
    parts = key.type.split(" | ")
    kinds = [_KINDS[part] for part in parts if part in _KINDS]
    if "float" in parts and "int" in parts:
        kinds.remove(_KINDS["int"])
    return f" ({' or '.join(kinds)})"


def _wrapped(left: str, right: str) -> str:
    """Put `left` before `right`, which is wrapped beside it, or below it if `left` is long."""
    first = f"  {left}".ljust(_INDENT - 2) + "  "
    if len(first) > _INDENT:
        return first.rstrip() + "\n" + _filled(right, " " * _INDENT)
    return _filled(right, first)


def _filled(text: str, first: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
