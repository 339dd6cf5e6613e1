"""A request to the engine, and the events that answer it, token by token.

Log-probabilities are in nats; those of a mixture are of the mixture itself, before temperature,
bias and cuts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from btm.ensemble.sampling import Sampling

Posterior = Mapping[str, float]  # {member: weight}


@dataclass(frozen=True)
class Request:
    """A text to be continued, or to be scored alone (`max_tokens` 0)."""

    model: str  # as the catalog names it: forest, forest:gated, an ELM, an average
    prompt: tuple[int, ...]  # tokens; the text's start (EOS or BOS) is the engine's to add
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()  # strings that end the text; none of them is told
    ignore_ends: bool = False  # go on past the tokens that end a text
    top: int = 0  # likeliest tokens that are told of each token
    score_prompt: bool = False  # tell the prompt's own log-probabilities
    posterior: bool = False  # tell the weight of each member before each token
    owner: str = ""  # who asks: places are shared out among owners


@dataclass(frozen=True)
class Token:
    """One token of the prompt or of what was written.

    A token that ends the text is told too, just before `Done`, and has no text.
    """

    id: int
    logp: float
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens, the first the likeliest
    posterior: Posterior | None = None  # before this token
    member_logp: Posterior | None = None  # log p by each member; of a prompt that is scored
    text: str = ""  # the text that is certain since this token and not yet told
    bound: float = 0.0  # how far the mixture that gave it may be from the exact one, in total
    # variation; 0 where all members know their whole distributions


@dataclass(frozen=True)
class Prompt:
    """The prompt was read; its tokens, where their scores were asked for."""

    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Done:
    """The request is over: nothing follows."""

    reason: str  # stop: an end or a stop string; length; cancelled; error
    text: str = ""  # the text that was held back until now
    stopped_by: int | str | None = None  # the end token, or the stop string
    error: str = ""
    lost: tuple[str, ...] = ()  # members that stopped answering: the rest went on without them


Event = Prompt | Token | Done
Listener = Callable[[Event], None]  # called by the engine's thread: it must return at once
