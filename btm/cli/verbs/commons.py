"""The verbs of a commons: a forest that people grow together by a store."""

from dataclasses import asdict

from btm.cli.verbs.output import Output
from btm.config.schema import Config


def init(config: Config, out: Output) -> None:
    """Open a commons at to=URL for the forest, or change what it wants.

    to=URL is s3://bucket/folder, gs://… or file:///folder, and is the only server there is.
    commons.wanted='{law: 2000000}' asks for an expert of each domain, trained on so many tokens; it
    branches from the seed, or from parent=NAME, or from weights='{…}'. Given again with other words
    it publishes the next version of the charter: more domains, commons.maintainers=[PUBLIC KEY],
    commons.members=[FINGERPRINT] where not everybody may claim, times and bounds. With
    commons.volunteers=4 so many train each of these experts together, in rounds. Makes this user's
    key where there is none.

    example: btm commons init to=s3://bucket/mine forest=experts/mine commons.wanted='{law: 9000}'
    """
    from btm.commons import opening

    made = opening.init(config, out.reporter)
    wanted = ", ".join(made.charter.wanted)
    out.line(
        f"commons at {made.url}, charter {made.charter.version}: wanted {wanted}; your key is "
        f"{made.maintainer}",
        {"url": made.url, "maintainer": made.maintainer, "charter": made.charter.to_json()},
    )


def join(config: Config, out: Output) -> None:
    """Take part in the commons at from=URL: make a key, measure this machine, claim domain=NAME.

    The key stays in a file of mode 600 in BTM_HOME, or ~/.config/btm.
    commons.maintainer=FINGERPRINT is whom you trust, told by other ways than the store. Without
    domain=NAME the board is shown. commons.hours= is what this machine gives: a slow one trains on
    fewer tokens.

    example: btm commons join from=s3://bucket/mine domain=law commons.hours=12
    """
    from btm.commons import board, joining, layout

    done = joining.join(config, out.reporter, new_key="--new-key" in out.flags)
    key = done.member.key
    if out.as_json:
        claim = done.claim.to_json() if done.claim else None
        values = {"key": key.fingerprint, "public": key.public, "speed": done.speed}
        return out.line("", values | {"claim": claim})
    out.line(f"your key is {key.fingerprint}; {done.speed:,.0f} tokens a second here", None)
    if done.claim is None:
        rows, _ = board.status(done.member)
        return out.rows(board.shown(rows), done.member.place.url.text)
    out.line(
        f"claimed {done.claim.domain}, {done.claim.tokens - done.claim.begun:,} tokens; next: btm "
        f"commons train domain={layout.domain_of(done.claim.domain)} data.root=TEXTS",
        None,
    )


def train(config: Config, out: Output) -> None:
    """Train the expert of a claimed domain on your own text, which never leaves this machine.

    domain=NAME data.root=TEXTS. The branch begins as the charter says, or goes on from the last
    checkpoint of somebody whose claim ended. Signs of life and checkpoints go to the store as it
    trains (commons.every=600 seconds); killed, the same command goes on. Where several volunteers
    share the domain, it takes part in rounds, until all tokens are trained on.

    example: btm commons train domain=law data.root=texts/law
    """
    from btm.commons import training

    made = training.train(config, out.reporter)
    out.line(
        f"trained {made.elm.path}, {made.steps:,} steps; next: btm commons submit "
        f"domain={made.elm.name}",
        made.elm.card.to_json(),
    )


def submit(config: Config, out: Output) -> None:
    """Send a trained expert to the store: its difference from its parents, in 8 bits, and its card.

    example: btm commons submit from=s3://bucket/mine forest=experts/mine domain=law
    """
    from btm.commons import submitting

    done = submitting.submit(config, out.reporter)
    out.line(
        f"{done.work.domain} {done.state}: {done.sent:,} bytes; a maintainer admits it, and btm "
        "commons status shows when",
        {"domain": done.work.domain, "state": done.state, "bytes": done.sent},
    )


def review(config: Config, out: Output) -> None:
    """Judge what was submitted, and decide nothing: signatures, claims, files, then the gate.

    example: btm commons review from=s3://bucket/mine forest=experts/mine
    """
    from btm.commons import reviewing

    found = reviewing.review(config, out.reporter)
    out.rows([asdict(each) for each in found], f"{len(found)} submissions wait")


def admit(config: Config, out: Output) -> None:
    """Judge what was submitted; merge and publish what passes, and reject what does not.

    domain=NAME alone, or all. Verdicts are signed and stay in the store, with a named reason.

    example: btm commons admit from=s3://bucket/mine forest=experts/mine domain=law
    """
    from btm.commons import board, reviewing
    from btm.commons.member import enter

    done = reviewing.admit(config, out.reporter)
    member = enter(config)
    board.publish(member, board.status(member)[0])
    out.rows([asdict(each) for each in done], f"{len(done)} decided")


def reject(config: Config, out: Output) -> None:
    """Reject the submissions of domain=NAME, for a reason of your own.

    example: btm commons reject domain=law commons.reason="trained on the test split"
    """
    from btm.commons import reviewing

    done = reviewing.reject(config)
    out.rows([asdict(each) for each in done], f"{len(done)} rejected")


def status(config: Config, out: Output) -> None:
    """Show the board: who trains what, how far, since when; a maintainer also writes it as a page.

    The page is commons/index.html in the store.

    example: btm commons status from=s3://bucket/mine
    """
    from btm.commons import board
    from btm.commons.member import enter

    member = enter(config)
    rows, snapshot = board.status(member)
    out.rows(board.shown(rows), member.place.url.text, ("last seen", "speed"))
    for refused in snapshot.refused.values():
        print(f"not believed: {refused}", file=out.stderr)
    if member.is_maintainer:
        board.publish(member, rows)


def leave(config: Config, out: Output) -> None:
    """Give back the claim of domain=NAME, so that others may have it at once.

    example: btm commons leave domain=law --withdraw commons.reason="the contract ended"
    """
    from btm.commons import leaving

    gone = leaving.leave(config, withdraw="--withdraw" in out.flags)
    _show_gone(gone.domain, "withdrawn" if gone.what == "expert" else "given back", gone.heirs, out)


def remove(config: Config, out: Output) -> None:
    """Remove an expert that its owner withdrew, from the forest here and from the store.

    Tombstones stay; the models that inherited from it are named, and stay (btm remove --rederive
    makes them again without it).

    example: btm commons remove forest=experts/mine domain=law
    """
    from btm.commons import leaving

    gone = leaving.remove(config)
    _show_gone(gone.domain, "removed", gone.heirs, out)


def revoke(config: Config, out: Output) -> None:
    """Declare a key no longer trusted: its claims are free, what it submitted is rejected.

    example: btm commons revoke commons.revoked=00112233445566778899aabbccddeeff
    """
    from btm.commons import opening

    wrong = opening.revoke(config)
    out.line(f"revoked {wrong}", {"revoked": wrong})


def _show_gone(domain: str, what: str, heirs: list[str], out: Output) -> None:
    said = f"; what inherited from it: {', '.join(heirs)}" if heirs else ""
    out.line(f"{domain} {what}{said}", {"domain": domain, "state": what, "heirs": heirs})
