"""`btm commons join`: somebody makes a key, measures this machine and claims a domain."""

from dataclasses import dataclass, replace
from pathlib import Path

from btm.commons import claims
from btm.commons.bodies import Claim, Wanted
from btm.commons.member import Member, enter, recalled, remember, rotate
from btm.commons.speed import tokens_per_second
from btm.commons.standing import HELD, SUBMITTED, standing
from btm.commons.together import seats
from btm.config.schema import Config
from btm.errors import UserError
from btm.forest.paths import Paths
from btm.interop import remote
from btm.report import Reporter, quiet


@dataclass(frozen=True)
class Joined:
    """A volunteer of a commons, and what they claimed."""

    member: Member
    speed: float  # tokens per second
    claim: Claim | None


def join(config: Config, reporter: Reporter = quiet, *, new_key: bool = False) -> Joined:
    """Register this user's key at ``from=URL``, making one where there is none, and measure the
    speed of this machine; with ``domain=NAME`` claim it.

    With `new_key` a fresh key takes the place of the one there was. Raises `UserError` where there
    is no commons, its maintainers are not who was expected, or the domain cannot be had.
    """
    member = enter(config, make_key=True)
    _require_maintainer(config, member)
    if new_key:
        member = _rotated(config, member)
    member.register(config.commons.name)
    remember(member)
    speed = _measured(config, member, reporter)
    if config.domain is None:
        return Joined(member, speed, None)
    return Joined(member, speed, claim(config, member, config.domain, speed))


def claim(config: Config, member: Member, domain: str, speed: float) -> Claim:
    """Return our claim of a domain, or of a seat of it, made now if there is none; the tokens of
    who trains alone follow from the speed.
    """
    wanted = claims.wanted_of(member, domain)
    found = seats.own(member, member.look(), domain)
    if found is not None:
        return found
    if wanted.together is not None:
        return seats.take(member, domain, speed)
    return claims.take(member, domain, budget(config, wanted, speed, domain), speed)


def budget(config: Config, wanted: Wanted, speed: float, domain: str) -> int:
    """Return the tokens that this machine trains in `commons.hours`, at most what is wanted.

    Raises `UserError` if that is less than the least.
    """
    able = round(speed * config.commons.hours * 3600)
    if able < wanted.least:
        raise UserError(
            f"commons.hours={config.commons.hours:g}: {able:,} tokens at {speed:,.0f} a second, "
            f"and {domain!r} wants {wanted.least:,} at least: give more hours, or another domain"
        )
    return min(able, wanted.tokens)


def local(config: Config, member: Member) -> Config:
    """Return `config` with the folder where this user keeps the forest of a commons."""
    return config if config.forest else replace(config, forest=f"experts/{member.charter.forest}")


def fetch_parents(config: Config, member: Member, names: list[str], reporter: Reporter) -> None:
    """Pull the models that a branch begins with into the local forest, unless they stand."""
    imports = replace(config.imports, source=member.place.url.text)
    for name in names:
        remote.pull(replace(config, imports=imports, expert=name, domain=None), reporter)


def _measured(config: Config, member: Member, reporter: Reporter) -> float:
    """Return the speed that was measured once for this model, batch and device."""
    wanted = member.charter.wanted
    parents = next((list(wanted[domain].parents) for domain in wanted), None)
    if parents is None:
        return 0.0
    config, t = local(config, member), config.trainer
    batch = f"{t.batch_size}x{t.seq_len} {t.precision} {t.device} {t.threads}"
    known = recalled(member)
    if known.get("batch") == batch and isinstance(known.get("speed"), float):
        return float(known["speed"])
    fetch_parents(config, member, parents, reporter)
    speed = tokens_per_second(config, Path(Paths(config.forest_root).elm(parents[0]).path))
    remember(member, speed=speed, batch=batch)
    return speed


def _rotated(config: Config, member: Member) -> Member:
    """Give this user a new key; `UserError` while a claim is made by the old one."""
    snapshot, now = member.look(), member.now()
    for domain in member.charter.wanted:
        found = seats.own(member, snapshot, domain)
        if found is not None and standing(snapshot, found.domain, now).state in (HELD, SUBMITTED):
            raise UserError(
                f"{domain!r} is claimed by the key you have: submit it and wait for the verdict, "
                f"or give it back (btm commons leave domain={domain}), then join --new-key"
            )
    return Member(member.place, rotate(member, config.commons.name), member.charters)


def _require_maintainer(config: Config, member: Member) -> None:
    """Raise `UserError` unless the maintainer that is expected is one."""
    expected, found = config.commons.maintainer, member.charter.maintainers
    if expected is not None and expected not in found:
        raise UserError(
            f"{member.place.url}: its maintainers are {', '.join(found)}, not {expected}: this is "
            "not the commons that you mean"
        )
