"""`btm commons init` and `revoke`: a maintainer opens a commons, and changes what it wants."""

import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from btm.commons import charter as charters
from btm.commons import keys, layout
from btm.commons.base import base_of, shares_of
from btm.commons.bodies import Charter, Policy, Revoked, Together, Wanted
from btm.commons.gate import Policy as Gate
from btm.commons.keys import Key
from btm.commons.member import Member, enter, remember
from btm.config.checks import check_weights
from btm.config.commons import CommonsConfig
from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest
from btm.interop import remote
from btm.interop.remote import facts as shared
from btm.interop.remote import urls
from btm.interop.remote.places import open_place
from btm.models import weights
from btm.report import Reporter, quiet

_ROUNDS = 30  # of an expert, where commons.round_tokens says nothing


@dataclass(frozen=True)
class Opened:
    """The version that a maintainer published."""

    url: str
    charter: Charter
    maintainer: str  # the fingerprint of who published it


def init(config: Config, reporter: Reporter = quiet) -> Opened:
    """Open a commons at ``to=URL`` for a forest, or publish the next version of its charter.

    The models that branches begin with are pushed there. `commons.wanted` joins what is wanted;
    what the command does not say stays as it was, and who gives it stays a maintainer. Raises
    `UserError` if another forest is there, or this user is none of its maintainers.
    """
    place, forest = open_place(urls.read(config.to, "to")), Forest(config.forest_root)
    key = keys.own()
    before = charters.read_all(place)
    if before and (key is None or key.fingerprint not in before[-1][0].maintainers):
        raise UserError(f"{place.url}: a commons stands there, and you are none of its maintainers")
    last = before[-1][0] if before else None
    wanted = _wanted(config, forest, last, reporter)
    if key is None:
        key = keys.make()
        keys.keep(key)
    made = _charter(config, forest, wanted, key, last)
    if last is not None and replace(made, version=last.version) == last:
        return Opened(place.url.text, last, key.fingerprint)
    charters.publish(place, made, key)
    member = Member(place, key, charters.require(place))
    member.register(config.commons.name)
    remember(member)
    member.log(forest.root, "charter", version=made.version, wanted=sorted(made.wanted))
    return Opened(place.url.text, made, key.fingerprint)


def _wanted(
    config: Config, forest: Forest, last: Charter | None, reporter: Reporter
) -> dict[str, Wanted]:
    """Add the domains that are asked for to those of the charter before, and push their parents."""
    asked = config.commons.wanted
    if not asked and last is None:
        raise UserError("what is wanted? give commons.wanted='{law: 2000000}', tokens by domain")
    parents = (
        check_weights(config.weights)
        if config.weights is not None
        else {config.parent or config.seed.name: 1.0}
    )
    if not asked:
        return dict(last.wanted) if last else {}
    for domain in asked:
        if domain in forest:
            raise UserError(f"commons.wanted: {forest.root} has an expert {domain!r} already")
    for name in parents:
        remote.push(replace(config, expert=name), reporter)
    shares = shares_of(forest, parents)
    with base_of(forest, parents, reporter.alive) as folder:
        base = weights.sha256(folder)
    least = config.commons.least
    fresh = {
        d: Wanted(t, max(1, round(least * t)), shares, base, _together(config.commons, t))
        for d, t in asked.items()
    }
    for domain, before in (last.wanted if last else {}).items():
        if domain in fresh and before.base == base and before.together != fresh[domain].together:
            raise UserError(
                f"commons.wanted: the rounds of {domain!r} have rules already, which its points "
                "follow from: leave them as they were, or ask for another domain"
            )
    return (last.wanted if last else {}) | fresh


def _together(asked: CommonsConfig, tokens: int) -> Together | None:
    """Make the rules of rounds, where several volunteers train an expert."""
    if asked.volunteers == 1:
        return None
    a_round = asked.round_tokens or max(1, round(tokens / _ROUNDS))
    outer = asked.outer_lr, asked.outer_momentum
    return Together(asked.volunteers, a_round, asked.round_seconds, *outer)


def _charter(
    config: Config, forest: Forest, wanted: dict[str, Wanted], key: Key, last: Charter | None
) -> Charter:
    """Make the next version of a charter; what the command does not say stays as it was."""
    asked, known, default = config.commons, shared.Facts.of(forest), CommonsConfig()
    publics = {keys.fingerprint(public): public for public in (key.public, *asked.maintainers)}
    if last is not None and not asked.maintainers:
        publics = last.maintainers
    policy = Policy(asked.lease, asked.stall, round(asked.most_mb * 1e6), dict(asked.gate))
    if last is not None:
        kept = {
            "lease": asked.lease == default.lease,
            "stall": asked.stall == default.stall,
            "most_bytes": asked.most_mb == default.most_mb,
            "gate": not asked.gate,
        }
        old = {name: getattr(last.policy, name) for name, stays in kept.items() if stays}
        policy = replace(policy, **old)
    Gate.from_json(policy.gate, "commons.gate")
    return Charter(
        commons=last.commons if last else secrets.token_hex(16),
        version=last.version + 1 if last else 1,
        forest=Path(config.forest_root).name,
        architecture=known.architecture,
        tokenizer_sha256=known.tokenizer_sha256,
        maintainers=publics,
        members=list(asked.members or (last.members if last else [])),
        wanted=wanted,
        policy=policy,
    )


def revoke(config: Config) -> str:
    """Declare the key `commons.revoked` no longer trusted, and return it.

    Its claims are free from now on, and what it submitted is rejected. Raises `UserError` unless
    this user is a maintainer. It cannot be undone: whoever it was makes another key.
    """
    member = enter(config)
    require_maintainer(member)
    wrong = config.commons.revoked
    if wrong is None:
        raise UserError("which key? give commons.revoked=FINGERPRINT (btm commons status)")
    if wrong in member.charter.maintainers:
        raise UserError(
            f"{wrong} is a maintainer's: publish a charter without it, btm commons init "
            "commons.maintainers=[…]"
        )
    reason = config.commons.reason
    member.write(layout.revoked(wrong), Revoked(member.commons, wrong, reason))
    member.log(Forest(config.forest_root).root, "revoked", key=wrong, reason=reason)
    return wrong


def require_maintainer(member: Member) -> None:
    """Raise `UserError` unless this user is a maintainer of the commons."""
    if not member.is_maintainer:
        raise UserError(
            f"{member.place.url}: your key {member.key.fingerprint} is none of its maintainers'"
        )
