"""The experts of `serve.remote` as models of the catalog, and as members of the engine."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from btm.config.remote_experts import RemoteExpert
from btm.errors import UserError
from btm.forest import Model
from btm.serve.members.member import LostError
from btm.serve.members.remote.member import RemoteMember
from btm.serve.members.remote.probe import Completions, Names, Offer, probe


@dataclass(frozen=True, kw_only=True)
class RemoteModel(Model):
    """A model that another server runs: it has no folder, and for the sha256 of weights that of
    its address and of all that the server tells of it.
    """

    url: str
    context: int = 0  # tokens of a text; 0: not told


class Remotes:
    """The experts that other servers run."""

    def __init__(self, experts: Sequence[RemoteExpert], tokenizer: Any, start: int) -> None:
        """Ask none of them yet; `tokenizer` is the forest's, `start` begins a text."""
        self._experts = {expert.name: expert for expert in experts}
        self._tokenizer, self._start = tokenizer, start
        self._offers: dict[str, Offer] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._experts

    def models(self) -> list[RemoteModel]:
        """List them, as far as is known of them."""
        return [self._model(expert) for expert in self._experts.values()]

    def connect(self) -> list[str]:
        """Ask all of them what they offer; say it in a line for each.

        `UserError` for the first that cannot be a member.
        """
        if not self._experts:
            return []
        said = []
        with ThreadPoolExecutor(len(self._experts), "btm-probe") as pool:
            for asked, offer in pool.map(self._open, self._experts.values()):
                asked.endpoint.close()
                said.append(_said(asked, offer))
        return said

    def load(self, model: Model) -> RemoteMember:
        """Ask one again, and make a member of it.

        Raises `LostError` if it does not answer, or is another one by now; the catalog finds that
        one when it looks again.
        """
        expert = self._experts[model.name]
        try:
            # Requests wait for this, and it is tried again later anyway.
            asked, offer = self._open(replace(expert, retries=0))
        except UserError as error:
            raise LostError(str(error), model.sha256) from None
        asked.endpoint.close()
        if offer.identity != model.sha256:
            raise LostError(f"{expert.where}: it is another model by now", model.sha256)
        return RemoteMember(Completions(expert, asked.names), offer, model.sha256)

    def _open(self, expert: RemoteExpert) -> tuple[Completions, Offer]:
        asked = Completions(expert, Names(self._tokenizer))
        try:
            offer = probe(asked, self._start)
        except BaseException:
            asked.endpoint.close()
            raise
        self._offers[expert.name] = offer
        return asked, offer

    def _model(self, expert: RemoteExpert) -> RemoteModel:
        offer = self._offers.get(expert.name)
        unknown = hashlib.sha256(f"{expert.url} {expert.model}".encode()).hexdigest()
        return RemoteModel(
            name=expert.name,
            path=Path(),
            sha256=unknown if offer is None else offer.identity,
            kind="remote",
            card=None,
            url=expert.url,
            context=0 if offer is None else offer.context,
        )


def _said(asked: Completions, offer: Offer) -> str:
    prompts = "by echo" if offer.echo else "prefix by prefix"
    return (
        f"{asked.expert.where}: model {asked.expert.model}, its {asked.top} likeliest tokens, "
        f"prompts are scored {prompts}, its tokenizer was compared {offer.checked}"
    )
