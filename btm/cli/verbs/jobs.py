"""The verbs that watch and stop what runs."""

from btm.cli.verbs.output import Output
from btm.config.schema import Config


def status(config: Config, out: Output) -> None:
    """Show the jobs of a forest's cycle: what is done, at work, waiting or failed, and why.

    example: btm status experiment=demo --json
    """
    from btm.launch import cycles

    rows, title = cycles.status(config)
    out.rows(rows, title)


def logs(config: Config, out: Output) -> None:
    """Print what the job of an expert has said; -f goes on as it says more, until it ends.

    example: btm logs forest=experts/demo -f expert=bible
    """
    from btm.launch import cycles

    said = cycles.log_lines(config, follow="-f" in out.flags)
    if out.as_json:
        return out.line("", "".join(said).splitlines())
    for text in said:
        print(text, end="", file=out.stdout, flush=True)


def cancel(config: Config, out: Output) -> None:
    """Stop the cycle of a forest, or the job of one expert, after a checkpoint; btm run goes on
    from there.

    example: btm cancel forest=experts/demo expert=law
    """
    from btm.launch import cycles

    said = cycles.cancel(config)
    out.line(said, {"said": said})


def doctor(config: Config, out: Output) -> None:
    """Say what this machine offers and what is missing.

    example: btm doctor --json
    """
    from btm.cli.doctor import findings

    out.rows(findings(config), "btm doctor")
