"""The command line: ``btm <verb> [key=value …]``, a thin shell over `btm.steps`.

hydra composes the configuration and is used nowhere else. `btm --help` imports neither hydra nor
torch.
"""

import io
import os
import sys
import warnings

from btm.cli import help as pages
from btm.cli.compose import compose, full_key
from btm.errors import UserError, unknown
from btm.system import caches

_FLAGS = ("--dry-run", "--json", "--debug", "--help", "-h", "--all")
# What one verb takes beyond these.
_FLAGS_OF = {
    "run": ("--detach", "--retry-failed"),
    "logs": ("-f",),
    "verify": ("--full",),
    "remove": ("--with-descendants", "--rederive", "--readmit"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for a mistake of the user, 130 after
    Ctrl-C.
    """
    words = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not have the letters of a name
    if not words or words[0] in ("-h", "--help", "help"):
        print(pages.OVERVIEW, end="")
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
