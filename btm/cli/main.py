"""The command line: ``btm <verb> [key=value …]``, a thin shell over `btm.steps`.

hydra composes the configuration and is used nowhere else. `btm --help` imports neither hydra nor
torch.
"""

import sys
import warnings

from btm.cli import help as pages
from btm.cli import pipes
from btm.cli.compose import compose, full_key
from btm.cli.flags import FLAGS as _FLAGS
from btm.cli.flags import FLAGS_OF as _FLAGS_OF
from btm.cli.stops import Stops
from btm.errors import TrainingStoppedError, UserError, unknown
from btm.system import caches
from btm.system.processes import collect_garbage_seldom

_GROUPS = ("read", "commons")  # words whose verb is the word that follows them, too


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    0, 2 for a mistake of the user, 141 where nobody reads its output any more, 130 after Ctrl-C and
    143 after SIGTERM.
    """
    collect_garbage_seldom()
    words, stops = sys.argv[1:] if argv is None else argv, Stops()
    pipes.take_any_letters()
    with pipes.lasting_stderr():
        try:
            code = _carry_out(words, stops)
            pipes.flush_stdout()
            return code
        except UserError as error:
            if "--debug" in words:
                raise
            _tell(str(error))
            return 2
        except BrokenPipeError:
            pipes.silence(sys.stdout)
            return pipes.CLOSED
        except OSError as error:
            if "--debug" in words:
                raise
            pipes.silence(sys.stdout)  # it may be what failed: a disk that is full
            place = f"{error.filename}: " if error.filename else ""
            _tell(f"{place}{error.strerror or error}")
            return 1
        except TrainingStoppedError as error:
            if not stops.asked:  # a mistake of ours: nobody asked it to
                raise
            _tell(f"interrupted: {error}; the same command goes on from there")
            return stops.exit_code
        except KeyboardInterrupt:
            last = "goes on from the last checkpoint, or begins again where there is none"
            again = last if stops.asked else "does the rest"
            _tell(f"interrupted; what was finished stands, and the same command {again}")
            return stops.exit_code


def _tell(text: str) -> None:
    """Print one line to stderr; what is not printable in it, which may command a terminal, is
    masked.
    """
    line = " ".join(part.strip() for part in text.splitlines())
    shown = "".join(c if c.isprintable() else "?" for c in line)
    print(f"btm: {shown}", file=sys.stderr)


def _carry_out(words: list[str], stops: Stops) -> int:
    """Print the overview or the version, or carry out a verb."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(pages.OVERVIEW, end="")
        return 0
    if words[0] == "--version":
        from btm import __version__

        print(__version__)
        return 0
    if words[0] == "completion":
        from btm.cli import completion

        return completion.command(words[1:])
    verb, rest = parted(words)
    with stops.heard():
        return _command(verb, rest, stops)


def parted(words: list[str]) -> tuple[str, list[str]]:
    """Part a command into its verb, one word or two (`read train`), and the words after it."""
    has_two = words[0] in _GROUPS and len(words) > 1 and "=" not in words[1]
    count = 2 if has_two and not words[1].startswith("-") else 1
    return " ".join(words[:count]), words[count:]


def _command(verb: str, words: list[str], stops: Stops) -> int:
    from btm.cli import preflight, verbs

    if verb.startswith("-"):
        raise UserError(f"{verb} stands before the verb: wanted btm <verb> [key=value …] {verb}")
    if verb in _GROUPS:
        if {"--help", "-h"} & {*words}:
            print(pages.of_group(verb))
            return 0
        raise UserError(
            f"btm {verb}: which verb? {', '.join(pages.verbs_of(verb))} (btm {verb} --help)"
        )
    if verb not in verbs.VERBS:
        raise unknown("verb", verb, verbs.VERBS)
    flags = [word for word in words if word.startswith("-")]
    known = [*_FLAGS, *_FLAGS_OF.get(verb, ())]
    for flag in flags:
        if "=" in flag:
            raise UserError(f"{flag}: a setting has no dashes: wanted {flag.lstrip('-')}")
        if flag not in known:
            raise unknown("flag", flag, known, f"btm {verb}")
    if "--help" in flags or "-h" in flags:
        doc = verbs.VERBS[verb].__doc__ or ""
        print(pages.of_verb(verb, doc, in_full="--all" in flags))
        return 0
    if "--all" in flags:
        raise UserError("--all goes with --help: it lists the keys that the verb does not read too")
    warnings.filterwarnings("ignore", category=FutureWarning)
    caches.prepare()
    settings = [word for word in words if not word.startswith("-")]
    config = compose(settings, verb)
    for word in settings:
        verbs.reads.require(verb, full_key(word), word)
    config = verbs.reads.settled(verb, config)
    verbs.effects.require(verb, list(map(full_key, settings)), flags, config)
    verbs.check_baseline(verb, config)
    preflight.check(verb, config, flags)
    output = verbs.Output("--json" in flags, sys.stdout, sys.stderr, flags, stops)
    if "--dry-run" in flags:
        from btm.cli.dry_run import plan, show

        show(plan(verb, config, flags), output)
        return 0
    return verbs.VERBS[verb](config, output) or 0
