"""The features of an endpoint, found out once at the start, and whether its tokenizer is the
forest's.

Prompts are token ids, which every server of OpenAI's completions takes, so nothing is tokenized
twice. Where a server scores the prompt itself (`echo` with `logprobs`) that is used; another is
asked for the next token of every prefix. A server that can name tokens by their ids is asked to.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from btm.config.remote_experts import RemoteExpert
from btm.data.tokenizer import size_of
from btm.errors import UserError
from btm.serve.http.pieces import Pieces
from btm.serve.members.remote.answers import Entry, Named, choices_of
from btm.serve.members.remote.endpoint import Endpoint, RefusedError, SilentError
from btm.system.json_files import Json

_TEXT = "In the beginning, 12345 café =\n  def f(x): 世界 it's"
_BYTES = 200  # that an answer has for one listed token, at most


class OtherTokenizerError(UserError):
    """An endpoint has another tokenizer than the forest."""


class Names:
    """The ids of tokens that are named by their text."""

    def __init__(self, tokenizer: Any) -> None:
        self.pieces, self.size = Pieces(tokenizer), size_of(tokenizer)
        self._ids: dict[str, int] | None = None

    def id_of(self, named: Named) -> int | None:
        """Find the id of a token; None if its text is that of several, or of none."""
        if named.id is not None:
            return named.id
        if self._ids is None:
            self._ids = {}
            for token in range(self.size):
                text = self.pieces.text(token)
                self._ids[text] = -1 if text in self._ids else token
        found = self._ids.get(named.text, -1)
        return found if found >= 0 else None

    def agrees(self, token: int, named: Named) -> bool:
        """Whether a server writes a token as this tokenizer does."""
        if not 0 <= token < self.size:
            return False
        own = self.pieces.bytes(token)
        if named.raw is not None:
            return named.raw == own
        return named.text in (self.pieces.text(token), own.decode("utf-8", "replace"))


@dataclass(frozen=True)
class Offer:
    """The features of an endpoint."""

    identity: str  # sha256 of its URL, the model's name, and what it tells of it
    context: int  # tokens of a prompt; 0: not told
    echo: bool  # it scores a prompt
    ids: bool  # it names tokens by their ids where it is asked to, by `return_tokens_as_token_ids`
    checked: str  # how its tokenizer was checked


class Completions:
    """Completions of one token, by one model of an endpoint."""

    def __init__(self, expert: RemoteExpert, names: Names) -> None:
        """Connect to nothing yet."""
        self.expert, self.names = expert, names
        self.endpoint = Endpoint(expert)

    @property
    def top(self) -> int:
        """The likeliest tokens that are asked for."""
        return min(self.expert.top, self.names.size)

    def ask(self, prompts: Sequence[Sequence[int]], *, echo: bool, ids: bool) -> list[list[Entry]]:
        """Let one token follow each prompt; return the entries of each, the prompts' own first
        with `echo`.

        Raises `RefusedError`, or `SilentError`.
        """
        body: Json = {
            "model": self.expert.model,
            "prompt": [list(prompt) for prompt in prompts],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": self.top,
        }
        if echo:
            body["echo"] = True
        if ids:
            body["return_tokens_as_token_ids"] = True
        places = sum(len(prompt) if echo else 0 for prompt in prompts) + len(prompts)
        most = (1 << 20) + places * (self.top + 2) * _BYTES
        answer = self.endpoint.post("/completions", body, most=most)
        try:
            return choices_of(answer, len(prompts))
        except ValueError as error:
            raise SilentError(f"{self.expert.where}: {error}") from None


def probe(asked: Completions, start: int) -> Offer:
    """Find out what an endpoint offers; `UserError` says why it cannot be a member.

    `start` is the token that begins a text.
    """
    text = asked.names.pieces.tokenizer(_TEXT, add_special_tokens=False).input_ids
    tokens = [start, *text]
    told = _told(asked)
    refused: RefusedError | None = None
    for echo, ids in ((True, True), (True, False), (False, True), (False, False)):
        try:
            entries, shorter = asked.ask([tokens, tokens[:-1]], echo=echo, ids=ids)
        except RefusedError as error:
            refused = refused or error
            continue
        break
    else:
        assert refused is not None
        raise UserError(str(refused))
    echo = len(entries) == len(tokens) + 1 and len(shorter) == len(tokens)
    if not (echo or len(entries) == len(shorter) == 1):
        raise UserError(f"{asked.expert.where}: {len(entries)} log-probs of one token")
    if not entries[-1].top:
        raise UserError(f"{asked.expert.where}: it tells no top log-probs, which are wanted")
    checked = _check_tokenizer(asked, tokens, entries if echo else entries[-1:])
    context = max(0, _context(told) - 1)  # the token that follows has a place too
    return Offer(_identity(asked.expert, told), context, echo, ids, checked)


def _told(asked: Completions) -> Json:
    """Ask what the endpoint tells of the model; nothing where it tells nothing."""
    try:
        listed = asked.endpoint.get("/models")
    except RefusedError as error:
        if error.status in (401, 403):
            raise
        return {}
    models = listed.get("data") if isinstance(listed, dict) else None
    for each in models if isinstance(models, list) else []:
        if isinstance(each, dict) and each.get("id") == asked.expert.model:
            return each
    return {}


def _context(told: Json) -> int:
    """Read the context from what vLLM, SGLang and btm tell, or llama.cpp."""
    meta = told.get("meta")
    found = told.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return found if isinstance(found, int) and found > 0 else 0


def _identity(expert: RemoteExpert, told: Json) -> str:
    """Hash where it is, and all that it tells but when it was started."""
    # vLLM makes up a permission for each answer.
    kept = {k: v for k, v in told.items() if k not in ("created", "permission")}
    said = json.dumps([expert.url, expert.model, kept], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _check_tokenizer(asked: Completions, tokens: Sequence[int], entries: list[Entry]) -> str:
    """Compare tokenizers as well as the endpoint allows; tell how.

    `tokens` are those of the probe, `entries` what was answered to it.
    """
    where, names = asked.expert.where, asked.names
    told = _tokenized(asked)
    if told is not None:
        if told != list(tokens[1:]):
            raise OtherTokenizerError(
                f"{where}: another tokenizer than the forest's: it reads {_TEXT[:16]!r} otherwise"
            )
        back = _detokenized(asked, told)
        if back is not None and back != _TEXT:
            raise OtherTokenizerError(f"{where}: it writes the forest's tokens as another text")
        return "by /tokenize" + (" and back" if back is not None else "")
    if entries[-1].token.text.startswith("token_id:"):  # what it calls them in words
        entries = asked.ask([tokens], echo=len(entries) > 1, ids=False)[0]
    pairs = list(zip(tokens, (entry.token for entry in entries[:-1]), strict=False))
    if len(entries) == 1 or all(named.id is not None for _, named in pairs):
        pairs += [(named.id, named) for named in entries[-1].top if named.id is not None]
    if pairs[1:]:
        # The start is written in one way or another.
        if not all(names.agrees(token, named) for token, named in pairs[1:]):
            raise OtherTokenizerError(f"{where}: another tokenizer: it writes tokens otherwise")
        return "by the text of tokens"
    if not all(names.id_of(named) is not None for named in entries[-1].top):
        raise OtherTokenizerError(f"{where}: another tokenizer: it names tokens that are unknown")
    return "by the names of the likeliest tokens alone"


def _tokenized(asked: Completions) -> list[int] | None:
    """Let the endpoint tokenize the probe's text, in the shape of vLLM or of llama.cpp."""
    model = {"model": asked.expert.model}
    bodies = (
        {"prompt": _TEXT, "add_special_tokens": False} | model,
        {"content": _TEXT, "add_special": False},
    )
    for body in bodies:
        found = _beside(asked, "/tokenize", body)
        tokens = found.get("tokens")
        if isinstance(tokens, list) and tokens and all(type(token) is int for token in tokens):
            return tokens
    return None


def _detokenized(asked: Completions, tokens: list[int]) -> str | None:
    found = _beside(asked, "/detokenize", {"tokens": tokens, "model": asked.expert.model})
    text = found.get("prompt", found.get("content"))
    return text if isinstance(text, str) else None


def _beside(asked: Completions, path: str, body: Json) -> Json:
    """Ask an endpoint that only some servers have; nothing where it is not there."""
    try:
        found = asked.endpoint.post(path, body, beside=True)
    except (RefusedError, SilentError):
        return {}
    return found if isinstance(found, dict) else {}
