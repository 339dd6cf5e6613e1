"""A forest as a model of lm-evaluation-harness (lm_eval 0.4): one model, or the ensemble.

What is scored, and after what, is what lm-eval's own `hf` model has: `TemplateLM` splits context
and continuation, a text without a context begins with BOS (EOS where there is none), what is too
long is cut on the left, and documents are read in windows of the whole context, each token scored
once. So one ELM gets the numbers that `hf` gives it.

This module imports lm_eval, an optional dependency; import it late.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from btm.config.load import LoadConfig
from btm.config.schema import Config
from btm.data.tokenizer import bos_of_copy, load_tokenizer, size_of
from btm.ensemble.continuations import Continuation, Mix, Told
from btm.ensemble.course import Course
from btm.ensemble.generate import Ensemble
from btm.ensemble.members import load_member
from btm.ensemble.sampling import Sampling, pick
from btm.errors import UserError
from btm.forest import Forest, Model
from btm.models import causal_lm
from btm.report import Reporter, quiet
from btm.steps.bench.subjects import Subject, context_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ANSWER = 256  # tokens of an answer where a task does not say; hf's own
# What a task may say of sampling, beside what `Sampling` has.
_KNOWN = {"until", "do_sample", "temperature", "top_p", "top_k", "min_p", "max_gen_toks"}

# {request: (context, continuation)} with the tokens of both, as `TemplateLM` hands them on.
_Tokens = tuple[tuple[str, str] | None, list[int], list[int]]


@dataclass(frozen=True)
class Settings:
    """How a forest is asked."""

    batch_size: int = 16
    context: int | None = None  # tokens; None: those that every member has positions for
    device: str = "cpu"
    seed: int = 1234  # of sampled answers
    load: LoadConfig = field(default_factory=LoadConfig)  # how the members are held in memory

    @classmethod
    def of(cls, config: Config) -> "Settings":
        """Read them of the sections `bench` and `load`."""
        chosen, device = config.bench, causal_lm.pick_device(config.trainer.device)
        return cls(chosen.batch_size, chosen.context, device, chosen.seed, config.load)


class ForestLM(TemplateLM):
    """An ensemble of a forest, or one of its models, as lm-eval asks a model.

    Scoring loads one member at a time; generating has all of them in memory.
    """

    def __init__(
        self,
        forest: Forest,
        subject: Subject,
        settings: Settings = Settings(),
        reporter: Reporter = quiet,
    ) -> None:
        """Load the tokenizer; `UserError` for a context that a member has no positions for."""
        super().__init__()
        self.forest, self.subject = forest, subject
        self.settings, self.reporter = settings, reporter
        self.tokenizer = load_tokenizer(forest.tokenizer)
        self._bos = bos_of_copy(forest.tokenizer, self.tokenizer)
        self.max_length = context_of(subject.members, settings.context)
        self._kept: PreTrainedModel | None = None  # a subject of one member stays loaded

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that a text without a context is read after."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer in lm-eval's cache of requests."""
        return str(self.forest.identity["tokenizer_sha256"])

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> str:
        """Refuse: a mixture is of the next token of one text, and the members of a forest are no
        chat models.
        """
        raise UserError(
            "a chat template was asked for, and btm bench asks base language models in plain text: "
            "leave it out"
        )

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Tokenize as `hf` does: a BOS that the text itself begins with is not put there twice."""
        if add_special_tokens is None and has_bos_prefix(
            string, self.tokenizer.decode(self.prefix_token_id)
        ):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **special))

    def _loglikelihood_tokens(
        self, requests: Sequence[_Tokens], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        for asked, _, continuation in requests:
            if not continuation:
                text = asked[1] if asked else ""
                raise UserError(
                    f"the continuation {text[:40]!r} that a task asks for is part of the last "
                    "token of its context: begin it with a space, or leave the task out"
                )
        texts = [self._cut(context, continuation) for _, context, continuation in requests]
        with self._told(texts) as told:
            found = self._mix().score(texts, told)
        for (asked, *_), each in zip(requests, found, strict=True):
            if asked is not None:
                self.cache_hook.add_partial("loglikelihood", asked, (each.logp, each.is_greedy))
        return [(each.logp, each.is_greedy) for each in found]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Sum log p of every token of each text, read in windows of the whole context."""
        windows, owners = [], []
        for number, (text,) in enumerate(request.args for request in requests):
            for pair in get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append(self._cut(*make_disjoint_window(pair)))
                owners.append(number)
        sums = np.zeros(len(requests))
        with self._told(windows) as told:
            for owner, logp in zip(owners, self._mix().logp(windows, told), strict=True):
                sums[owner] += logp
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, float(total))
        return [float(total) for total in sums]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Let the subject answer each prompt, up to a stop string, an end of text or a length."""
        prompts = [self._prompt(*request.args) for request in requests]
        loaded = {model.name: self._load(model) for model in self.subject.members}
        answers = []
        tokens = sum(map(len, prompts)) * len(loaded)
        with self.reporter.scoring(f"{self.subject.name}, writing", tokens) as told:
            for number, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
                how = _Answering.of(request.args[1])
                answers.append(self._answer(loaded, prompt, how, number))
                self.cache_hook.add_partial("generate_until", request.args, answers[-1])
                told(len(prompt) * len(loaded))
        return answers

    def _cut(self, context: list[int], continuation: list[int]) -> Continuation:
        """Cut what is too long for the context on the left, as `hf` does."""
        if len(continuation) > self.max_length:
            remedy = (
                "give a larger bench.context" if self.settings.context else "leave the task out"
            )
            raise UserError(
                f"a continuation of {len(continuation):,} tokens is longer than the context of "
                f"{self.max_length:,}: {remedy}"
            )
        whole = (context + continuation)[-(self.max_length + 1) :]
        return Continuation(tuple(whole), len(continuation))

    def _mix(self) -> Mix:
        subject = self.subject

        def begin() -> Course:
            return subject.rule.course(subject.log_prior, subject.route)

        return Mix(
            members=[self._loader(model) for model in subject.members],
            begin=begin,
            vocabulary=size_of(self.tokenizer),
            batch_size=self.settings.batch_size,
        )

    def _told(self, texts: Sequence[Continuation]) -> AbstractContextManager[Told]:
        """Begin to report how many tokens of all members are read."""
        tokens = sum(len(text.tokens) - 1 for text in texts) * len(self.subject.members)
        return self.reporter.scoring(self.subject.name, tokens)

    def _prompt(self, text: str, options: dict[str, Any]) -> list[int]:
        """Tokenize a prompt and leave room for its answer, as `hf` does."""
        most = _Answering.of(options).tokens
        if most >= self.max_length:
            raise UserError(
                f"a task asks for answers of {most:,} tokens (max_gen_toks) and the context has "
                f"{self.max_length:,}: leave the task out, or say less in its file"
            )
        return self.tok_encode(text)[most - self.max_length :] or [self.prefix_token_id]

    def _answer(
        self,
        loaded: "dict[str, PreTrainedModel]",
        prompt: list[int],
        how: "_Answering",
        number: int,
    ) -> str:
        """Write one answer; the first token of the prompt is what the members read first."""
        first, *rest = prompt
        subject = self.subject
        mixed = Ensemble(
            loaded,
            subject.log_prior,
            first,
            subject.ensemble,
            subject.route,
            subject.ends,
            self._bos,
        )
        mixed.read(rest)
        rng = np.random.default_rng((self.settings.seed, number))
        until = handle_stop_sequences(how.until, self.tokenizer.decode(self.eot_token_id))
        written: list[int] = []
        text = ""
        while len(written) < how.tokens:
            token = pick(mixed.next_logp(), how.sampling, rng)
            if token in subject.ends:
                break
            written.append(token)
            text = self.tokenizer.decode(written, skip_special_tokens=True)
            if any(stop and stop in text for stop in until):
                break
            mixed.read([token])
        return str(postprocess_generated_text(text, until, None))

    def _loader(self, model: Model) -> "Callable[[], PreTrainedModel]":
        return lambda: self._load(model)

    def _load(self, model: Model) -> "PreTrainedModel":
        if self._kept is not None:
            return self._kept
        loaded = load_member(self.forest, model, self.settings.device, self.settings.load)
        if len(self.subject.members) == 1:
            self._kept = loaded
        return loaded


@dataclass(frozen=True)
class _Answering:
    """How a task wants answers."""

    tokens: int
    until: list[str]
    sampling: Sampling

    @classmethod
    def of(cls, options: dict[str, Any]) -> "_Answering":
        """Read a task's generation settings; `UserError` for one that the ensemble does not have,
        as beams.
        """
        known = normalize_gen_kwargs(options, _ANSWER)
        if strange := sorted(known.keys() - _KNOWN):
            raise UserError(
                f"a task asks for generation with {', '.join(strange)}; known are "
                f"{', '.join(sorted(_KNOWN))}"
            )
        sampled = bool(known["do_sample"])
        sampling = Sampling(
            temperature=float(known.get("temperature", 1.0)) if sampled else 0.0,
            top_p=float(known.get("top_p", 1.0)),
            top_k=int(known.get("top_k", 0)),
            min_p=float(known.get("min_p", 0.0)),
        )
        return cls(int(known["max_gen_toks"]), list(known["until"]), sampling)
