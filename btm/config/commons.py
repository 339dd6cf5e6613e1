"""Settings of a commons: a forest that people grow together by a store (btm/commons)."""

import re
from dataclasses import dataclass
from typing import Any

from btm.config.checks import (
    check_least,
    check_name,
    check_names,
    check_path,
    check_printable,
    require,
)
from btm.config.keys import key

_FINGERPRINT = re.compile(r"[0-9a-f]{32}")
_PUBLIC = re.compile(r"[0-9a-f]{64}")
_LONGEST = 300  # characters of a reason
_MOST_SEATS = 999


@dataclass
class CommonsConfig:
    """What a commons wants, and how somebody takes part in it."""

    wanted: dict[str, Any] = key(
        {}, "domains that init asks for, and the tokens to train each on, {domain: tokens}"
    )
    volunteers: int = key(1, "volunteers who train each of these experts together, in rounds")
    round_tokens: int = key(
        0, "tokens of a round, of all volunteers together; 0: a thirtieth of the expert's"
    )
    round_seconds: float = key(
        3600.0, "seconds after which a round is closed without those who are late"
    )
    outer_lr: float = key(0.7, "learning rate of the outer step at the end of a round (DiLoCo)")
    outer_momentum: float = key(0.7, "Nesterov momentum of the outer step")
    least: float = key(0.1, "share of these tokens that a slow machine may do with")
    lease: float = key(900.0, "seconds without a sign of life after which a claim is free")
    stall: float = key(21600.0, "seconds without a checkpoint after which a claim is free")
    most_mb: float = key(4096.0, "largest submission, and largest checkpoint, in MB")
    maintainers: list[str] = key(
        [], "public keys, 64 hexadecimal digits, of maintainers beside whoever gives init"
    )
    members: list[str] = key(
        [], "fingerprints of the keys that may claim, 32 hexadecimal digits; empty: all"
    )
    gate: dict[str, Any] = key(
        {}, "bounds of the gate that differ from its own, {name: number} (docs/commons.md)"
    )
    probes: str | None = key(
        None, "file of triggers and canaries that the gate tries, kept from the store; null: none"
    )
    name: str = key("volunteer", "name by which others see you; it identifies nobody")
    maintainer: str | None = key(
        None, "fingerprint of a maintainer that join expects; null: whom the store names"
    )
    hours: float = key(24.0, "hours that this machine gives: fewer tokens where it is slow")
    every: float = key(600.0, "seconds from one uploaded checkpoint to the next")
    revoked: str | None = key(None, "of revoke: fingerprint of the key to distrust; null: none")
    reason: str = key("", "why a submission is rejected, a key revoked or an expert withdrawn")


def check_commons(commons: CommonsConfig) -> None:
    """Raise `UserError` naming the first key of `commons` whose value makes no sense."""
    check_names(list(commons.wanted), "commons.wanted")
    for domain, tokens in commons.wanted.items():
        is_count = type(tokens) is int and tokens > 0
        require(
            is_count, f"commons.wanted.{domain}", tokens, "wanted a number of tokens, 1 or more"
        )
    _check_rounds(commons)
    require(0 < commons.least <= 1, "commons.least", commons.least, "wanted (0, 1]")
    check_least(commons, "commons", 1, "lease", "most_mb")
    check_least(commons, "commons", 0, "every")
    stall_key = "commons.stall"
    require(
        commons.stall >= commons.lease, stall_key, commons.stall, "wanted commons.lease or more"
    )
    require(0 < commons.hours < float("inf"), "commons.hours", commons.hours, "wanted more than 0")
    check_path(commons.probes, "commons.probes")
    check_name(commons.name, "commons.name")
    for word in commons.maintainers:
        require(bool(_PUBLIC.fullmatch(word)), "commons.maintainers", word, "is no public key")
    for word in commons.members:
        require(bool(_FINGERPRINT.fullmatch(word)), "commons.members", word, "is no fingerprint")
    for name in ("maintainer", "revoked"):
        word = getattr(commons, name)
        fits = word is None or bool(_FINGERPRINT.fullmatch(word))
        require(fits, f"commons.{name}", word, "wanted a fingerprint: 32 hexadecimal digits")
    check_printable(commons.reason, "commons.reason")
    length = len(commons.reason)
    require(length <= _LONGEST, "commons.reason", length, f"wanted {_LONGEST} characters or fewer")


def _check_rounds(commons: CommonsConfig) -> None:
    """Refuse rounds of nobody, and outer steps that lead nowhere."""
    require(
        1 <= commons.volunteers <= _MOST_SEATS,
        "commons.volunteers",
        commons.volunteers,
        f"wanted 1 to {_MOST_SEATS}",
    )
    check_least(commons, "commons", 0, "round_tokens")
    check_least(commons, "commons", 1, "round_seconds")
    lr, momentum = commons.outer_lr, commons.outer_momentum
    require(0 < lr <= 10, "commons.outer_lr", lr, "wanted more than 0, and 10 at most")
    require(0 <= momentum < 1, "commons.outer_momentum", momentum, "wanted [0, 1)")
    default = CommonsConfig()
    for name in ("round_tokens", "round_seconds", "outer_lr", "outer_momentum"):
        value = getattr(commons, name)
        alone = commons.volunteers == 1 and value != getattr(default, name)
        require(not alone, f"commons.{name}", value, "give commons.volunteers=2 or more with it")
