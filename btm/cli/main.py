"""The command line: ``btm <verb> [key=value …]``, a thin shell over `btm.steps`.

hydra composes the configuration and is used nowhere else. `btm --help` imports neither hydra nor
torch.
"""

import os
import sys
import warnings

from btm.cli.compose import ALIASES, all_keys, compose, conf_folder, full_key
from btm.errors import UserError, unknown

_FLAGS = ("--dry-run", "--json", "--debug", "--help", "-h", "--all")
# What one verb takes beyond these.
_FLAGS_OF = {
    "run": ("--detach", "--retry-failed"),
    "logs": ("-f",),
    "verify": ("--full",),
    "remove": ("--with-descendants", "--rederive", "--readmit"),
}

_HELP = """btm: Branch-Train-Merge, forests of expert language models

usage: btm <verb> [key=value ...] [--dry-run] [--json] [--debug]

  prepare   text -> token shards             btm prepare data=folder data.root=texts data.name=mine
  discover  unlabelled text -> domains       btm discover data=folder data.root=texts discover.k=8
  seed      train or import the first ELM    btm seed data=folder data.name=mine model=tiny
  branch    initialise a new ELM             btm branch expert=law branch=posterior
  train     train it on its domain           btm train expert=law trainer.lr=2e-4
  merge     check it and add it to the set   btm merge expert=law
  grow      a new domain: all of these       btm grow forest=experts/demo domain=perl from=perl
  score     cache token log-probabilities    btm score score.splits=[test]
  eval      ensemble against every ELM       btm eval ensemble=tracking ensemble.top_k=4
  compare   forest, averages, baselines      btm compare experiment=demo
  average   several ELMs into one model      btm average weights='{law: 0.7, med: 0.3}'
  import    a Hugging Face model comes in    btm import from=DIR name=law domain=law
  export    an ELM or an average goes out    btm export average=deploy to=DIR
  generate  the ensemble goes on with text   btm generate prompt="In the beginning" domain=bible
  run       all of it, as jobs               btm run experiment=demo cluster=slurm
            or what it is compared with      btm run experiment=demo baseline=dense
  paper     the paper's tables, from nothing btm paper size=smoke
  status    the jobs of a cycle              btm status forest=experts/demo
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

  --dry-run   say what would be done, write nothing
  --json      print results as JSON
  --debug     show tracebacks
  --detach    run: start and return          --retry-failed   run: try again what failed
  --full      verify: read every byte
  --rederive, --with-descendants, --readmit   remove: descendants, name
  btm <verb> --help lists the keys that the verb reads, with their defaults; --all: every key

Start with: btm run experiment=demo
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for a mistake of the user, 130 after
    Ctrl-C.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if words[0] == "--version":
        from btm import __version__

        print(__version__)
        return 0
    try:
        code = _command(words[0], words[1:])
        sys.stdout.flush()
        return code
    except UserError as error:
        if "--debug" in words:
            raise
        line = " ".join(str(error).split())  # names from outside may hold what commands a terminal
        print("btm: " + "".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read our output has seen enough: `btm ls | head`. Python's own flush at exit must
        # not stumble over the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as a shell says it
    except OSError as error:
        if "--debug" in words:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"btm: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "btm: interrupted; the same command goes on from the last checkpoint", file=sys.stderr
        )
        return 130


def _command(verb: str, words: list[str]) -> int:
    from btm.cli import preflight, verbs

    if verb.startswith("-"):
        raise UserError(f"{verb} stands before the verb: wanted btm <verb> [key=value …] {verb}")
    if verb not in verbs.VERBS:
        raise unknown("verb", verb, verbs.VERBS)
    flags = [word for word in words if word.startswith("-")]
    known = [*_FLAGS, *_FLAGS_OF.get(verb, ())]
    for flag in flags:
        if flag not in known:
            raise unknown("flag", flag, known, f"btm {verb}")
    if "--help" in flags or "-h" in flags:
        doc = verbs.VERBS[verb].__doc__ or ""
        print(_verb_help(verb, doc, in_full="--all" in flags))
        return 0
    if "--all" in flags:
        raise UserError("--all goes with --help: it lists the keys that the verb does not read too")
    warnings.filterwarnings("ignore", category=FutureWarning)
    settings = [word for word in words if not word.startswith("-")]
    config = compose(settings, verb)
    for word in settings:
        verbs.reads.require(verb, full_key(word), word)
    verbs.check_baseline(verb, config)
    preflight.check(verb, config)
    output = verbs.Output(
        as_json="--json" in flags, stdout=sys.stdout, stderr=sys.stderr, flags=flags
    )
    if "--dry-run" in flags:
        from btm.cli.dry_run import plan, readable

        rows = plan(verb, config, flags)
        output.rows(rows if output.as_json else readable(rows), "would do")
        return 0
    return verbs.VERBS[verb](config, output) or 0


def _verb_help(verb: str, doc: str, *, in_full: bool) -> str:
    """Describe a verb: what it does, the bundles, and the keys it reads (`in_full`: all keys).

    The defaults are those in force once `conf/` is composed.
    """
    groups = {
        folder.name: ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        for folder in sorted(conf_folder().iterdir())
        if folder.is_dir()
    }
    lines = [f"btm {verb} [key=value ...]", "", doc.strip(), "", "bundles:"]
    lines += [f"  {name}={{{options}}}" for name, options in groups.items()]
    lines += ["", "keys and defaults:" if in_full else f"keys that btm {verb} reads, and defaults:"]
    lines += _key_lines(verb, in_full=in_full)
    lines += [
        "",
        "Words of a cycle (data, model, trainer, seed, cluster, …) are accepted by every verb, so",
        "that one block of words serves all steps; any other key that the verb does not read is an",
        "error." + ("" if in_full else " --help --all lists every key."),
    ]
    return "\n".join(lines)


def _key_lines(verb: str, *, in_full: bool) -> list[str]:
    """List keys with their defaults, a blank line between sections."""
    from btm.cli.verbs import reads

    names = {source: alias for alias, source in ALIASES.items()}
    # "ls" takes nothing from a forest: what one forest records is no default.
    defaults = all_keys(compose([], "ls"))
    lines, last = [], ""
    for key in sorted(defaults, key=lambda key: "." in key):
        if not (in_full or reads.reads(verb, key)):
            continue
        section = key.rpartition(".")[0].partition(".")[0]
        if section != last:
            lines.append("")
        value = defaults[key]
        lines.append(f"  {names.get(key, key)}={'null' if value is None else value}")
        last = section
    return lines
