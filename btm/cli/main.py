"""The command line: ``btm <verb> [key=value …]``, a thin shell over `btm.steps`.

hydra composes the configuration and is used nowhere else. `btm --help` imports neither hydra nor torch.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

from btm.config.schema import Config
from btm.errors import UserError, unknown

# `from` and `import` are words of Python, so no dataclass can have fields of these names.
_ALIASES = {"seed.from": "seed.source", "from": "imports.source", "import.legacy": "imports.legacy"}
_SYNONYMS = {"name": "expert", "average": "average.name"}  # where these read better: btm import, btm export
# Verbs for which nothing that a forest records of its settings matters: they look at what stands there.
_SETTLED = (
    *("discover", "paper", "doctor", "status", "logs", "cancel"),
    *("ls", "show", "verify", "lineage", "diff", "gc"),
)
_FLAGS = ("--dry-run", "--json", "--debug", "--help", "-h")
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
  grow      a new domain: all of these       btm grow forest=experts/demo domain=perl from=texts/perl
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
  --full      verify: read every byte        --rederive, --with-descendants, --readmit   remove: descendants, name
  btm <verb> --help lists every key with its default

Start with: btm run experiment=demo
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for a mistake of the user, 130 after Ctrl-C."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if words[0] == "--version":
        from btm import __version__

        print(__version__)
        return 0
    try:
        return _command(words[0], words[1:])
    except UserError as error:
        if "--debug" in words:
            raise
        line = " ".join(str(error).split())  # names from outside may hold what commands a terminal
        print("btm: " + "".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)
        return 2
    except OSError as error:
        if "--debug" in words:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"btm: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("btm: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
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
        print(_verb_help(verb, verbs.VERBS[verb].__doc__ or ""))
        return 0
    warnings.filterwarnings("ignore", category=FutureWarning)
    config = compose([word for word in words if not word.startswith("-")], verb)
    verbs.check_baseline(verb, config)
    preflight.check(verb, config)
    output = verbs.Output(as_json="--json" in flags, stdout=sys.stdout, stderr=sys.stderr, flags=flags)
    if "--dry-run" in flags:
        from btm.cli.dry_run import plan

        output.rows(plan(verb, config, flags), "would do")
        return 0
    return verbs.VERBS[verb](config, output) or 0


def compose(overrides: list[str], verb: str = "") -> Config:
    """Return the configuration of `conf/` with `overrides`, validated; a `UserError` names the wrong key.

    Where the user is silent, what the forest records of its own settings holds, if `verb` asks for any.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="schema", node=Config)
    prompts = [override for override in overrides if override.startswith("prompt=")]
    checked = [_known(override) for override in overrides if override not in prompts]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(conf_folder()), version_base="1.3"):
            composed = hydra_compose("config", checked)
        named = {override.lstrip("+~").partition("=")[0] for override in checked}
        if verb not in _SETTLED:
            _take_recorded(composed, named)
        config: Any = OmegaConf.to_object(composed)
    except OverrideParseException as error:
        key = error.override.partition("=")[0]
        raise UserError(
            f"{error.override!r}: {_reason(error)}; quote a value with special characters twice: {key}='\"…\"'"
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_reason(error)) from None
    if verb in ("eval", "score", "compare") and named & {"data", "data.name"} and not config.eval.suites:
        config.eval.suites = [config.data.name]
    if prompts:  # text, which hydra would read as its own grammar
        config.prompt = prompts[-1].partition("=")[2]
    return config.validate()


def _take_recorded(composed: Any, named: set[str]) -> None:
    """Give a composed configuration what its forest records, but for the keys and bundles that the user `named`."""
    from omegaconf import OmegaConf

    from btm.forest import settings

    root = Path(composed.forest or f"experts/{composed.data.name}")
    for key, value in settings.defaults(root, composed.data.name, named).items():
        below = [name for name in named if name.startswith(f"{key}.")]  # model.config.hidden_size=64
        own = {name: OmegaConf.select(composed, name) for name in below}
        OmegaConf.update(composed, key, value, merge=False)
        for name, given in own.items():
            OmegaConf.update(composed, name, given, force_add=True)


def conf_folder() -> Path:
    """Return `conf/`: beside the code in an installed wheel, at the top of the repository otherwise."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())


def _known(override: str) -> str:
    """Return an override with its alias resolved; `UserError` if its key does not exist."""
    key, equals, value = override.partition("=")
    bare = key.lstrip("+~")
    if not equals and not key.startswith("~"):
        raise UserError(f"{override!r} is no setting: wanted key=value, as in trainer.lr=2e-4")
    if long := (_ALIASES | _SYNONYMS).get(bare):
        return key.removesuffix(bare) + long + equals + value
    groups = [folder.name for folder in conf_folder().iterdir() if folder.is_dir()]
    if bare in groups:
        options = sorted(file.stem for file in (conf_folder() / bare).glob("*.yaml"))
        if value not in options:
            raise unknown(bare, value, options)
        return override
    keys = _keys()
    if bare not in keys and not bare.startswith("model.config."):
        raise (
            unknown("key", bare, [*keys, *groups, *_ALIASES])
            if "." not in bare
            else _unknown_below(bare, keys)
        )
    # A dictionary takes keys that nobody could know.
    is_open = bare.startswith("model.config.") or isinstance(keys.get(bare), dict)
    return "++" + override.lstrip("+") if is_open else override


def _unknown_below(key: str, keys: dict[str, Any]) -> UserError:
    """Return the error for an unknown dotted key; it lists the keys beside it."""
    section = key.rpartition(".")[0]
    near = [known for known in [*keys, *_ALIASES] if known.rpartition(".")[0] == section]
    return unknown("key", key, near or list(keys))


def _keys() -> dict[str, Any]:
    """Return every key of the configuration with its default."""
    from dataclasses import fields, is_dataclass

    def walk(node: Any, prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for field in fields(node):
            value = getattr(node, field.name)
            found |= (
                walk(value, f"{prefix}{field.name}.") if is_dataclass(value) else {prefix + field.name: value}
            )
        return found

    return walk(Config(), "")


def _reason(error: Exception) -> str:
    """Return the part of a hydra or omegaconf error that helps: its cause, and the key."""
    from omegaconf.errors import OmegaConfBaseException

    # Under a debugger omegaconf also chains its own errors, whose causes are templates nobody should read.
    while isinstance(error.__cause__, Exception) and not isinstance(error, OmegaConfBaseException):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    message = lines[0] if lines else type(error).__name__
    return f"{key}: {message}" if key else message


def _verb_help(verb: str, doc: str) -> str:
    groups = {
        folder.name: ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        for folder in sorted(conf_folder().iterdir())
        if folder.is_dir()
    }
    names = {source: alias for alias, source in _ALIASES.items()}
    lines = [f"btm {verb} [key=value ...]", "", doc.strip(), "", "bundles:"]
    lines += [f"  {name}={{{options}}}" for name, options in groups.items()]
    lines += ["", "keys and defaults:"]
    lines += [
        f"  {names.get(key, key)}={'null' if value is None else value}" for key, value in _keys().items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
