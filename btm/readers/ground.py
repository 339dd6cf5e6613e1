"""The models a reader stands on: one of a forest, or its experts, mixed by the domain posterior.

Shapes: E models, T tokens of a text, H the width of hidden states.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from btm.config.schema import Config
from btm.data.tokenizer import bos_of_copy, load_tokenizer
from btm.ensemble.members import load_member
from btm.errors import UserError
from btm.forest import Forest, Model, find_model
from btm.forest.paths import AVERAGES
from btm.models import causal_lm

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TOKENS = 1 << 13  # of one forward pass, at most
_ENDLESS = 2048  # tokens, of models that have positions without end


@dataclass(frozen=True)
class Tokens:
    """A text as tokens."""

    ids: NDArray[np.int64]  # (T,)
    spans: NDArray[np.int64]  # (T, 2): its first character, and the one after its last


@dataclass(frozen=True)
class Encoded:
    """A text as read by what a reader stands on."""

    states: NDArray[np.float32]  # (T, H), or their mean (1, H); mixed by `weights`
    weights: NDArray[np.float64]  # (E,): p(D=j | text) under a uniform prior


class Ground:
    """The models that a reader stands on; they are loaded when the first text is read."""

    def __init__(self, forest: Forest, kind: str, models: Sequence[Model], device: str = "cpu"):
        self.forest = forest
        self.kind = kind  # expert, average, forest
        self.models = tuple(models)
        self.device = device

    @classmethod
    def of(cls, config: Config) -> "Ground | None":
        """Find what `on` names; None where a reader stands on nothing. `UserError` if it is not
        there.
        """
        if config.on is None:
            return None
        forest = Forest(config.forest_root)
        device = causal_lm.pick_device(config.trainer.device)
        if config.on == "forest":
            names = config.ensemble.experts or [elm.name for elm in forest.experts()]
            if not names:
                raise UserError(f"on=forest: {forest.root} has no experts; grow some: btm run")
            return cls(forest, config.on, [find_model(forest, name) for name in names], device)
        average = config.on == "average"
        name = config.average.name if average else config.expert
        if name is None:
            raise UserError(f"on={config.on}: which one? give {config.on}=NAME")
        called = f"{AVERAGES}/{name}" if average else name
        return cls(forest, config.on, [find_model(forest, called)], device)

    @classmethod
    def again(
        cls, forest: Forest, kind: str, elms: Mapping[str, str], device: str = "cpu"
    ) -> "Ground":
        """Find the models {name: sha256} that a saved reader stands on; `UserError` where one is
        gone or another.
        """
        models = []
        for name, sha256 in elms.items():
            model = find_model(forest, name)
            if model.sha256 != sha256:
                raise UserError(
                    f"the reader stands on {name} of sha256 {sha256[:12]}, and {model.sha256[:12]} "
                    "stands there now: train the reader again"
                )
            models.append(model)
        return cls(forest, kind, models, device)

    @property
    def identity(self) -> dict[str, str]:
        """{name: sha256 of its weights} of the models."""
        return {model.name: model.sha256 for model in self.models}

    @cached_property
    def tokenizer(self) -> Any:
        """The forest's tokenizer."""
        return load_tokenizer(self.forest.tokenizer)

    @cached_property
    def start(self) -> int:
        """The token that begins a text: BOS, or else EOS."""
        bos = bos_of_copy(self.forest.tokenizer, self.tokenizer)
        return int(self.tokenizer.eos_token_id) if bos is None else bos

    @cached_property
    def loaded(self) -> "list[PreTrainedModel]":
        """The models, in memory."""
        return [load_member(self.forest, model, self.device) for model in self.models]

    @property
    def width(self) -> int:
        """H."""
        return int(causal_lm.text_config(self.loaded[0].config).hidden_size)

    @property
    def context(self) -> int:
        """Tokens of a text that are read at most, without the one that begins it."""
        limits = [causal_lm.context_limit(m.config.to_dict()) or _ENDLESS for m in self.loaded]
        return min(limits) - 1

    def tokens(self, text: str) -> Tokens:
        """Cut a text into tokens."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = np.array(found.offset_mapping, np.int64).reshape(-1, 2)
        return Tokens(np.array(found.input_ids, np.int64), spans)

    def encode(self, texts: Sequence[NDArray[np.int64]], *, pooled: bool = False) -> list[Encoded]:
        """Read the token ids of each text by all models; keep the last hidden states, or where
        they are `pooled` the mean of each text.

        A text is at least one token and at most `context`, else `ValueError`.
        """
        if any(not 0 < len(ids) <= self.context for ids in texts):
            raise ValueError(f"wanted 1 to {self.context} tokens")
        found: list[Encoded | None] = [None] * len(texts)
        for numbers in groups(texts):
            for number, encoded in zip(
                numbers, self._read([texts[n] for n in numbers], pooled), strict=True
            ):
                found[number] = encoded
        return [each for each in found if each is not None]

    def _read(self, texts: Sequence[NDArray[np.int64]], pooled: bool) -> Iterator[Encoded]:
        """Read texts of like length in one pass of each model."""
        import torch

        lengths = [len(ids) for ids in texts]
        ids = torch.zeros((len(texts), max(lengths) + 1), dtype=torch.long)
        ids[:, 0] = self.start
        for row, text in enumerate(texts):
            ids[row, 1 : len(text) + 1] = torch.from_numpy(text)
        states, logp = [], np.zeros((len(self.models), len(texts)))
        with torch.inference_mode():
            for j, model in enumerate(self.loaded):
                out = model(
                    input_ids=ids.to(model.device), output_hidden_states=True, use_cache=False
                )
                states.append(out.hidden_states[-1][:, 1:].float().cpu())
                if len(self.models) > 1:
                    logp[j] = _logp(causal_lm.logits_of(out), ids, lengths)
        weights = np.exp(logp - logp.max(axis=0))
        weights /= weights.sum(axis=0)
        for row, length in enumerate(lengths):
            mixed = np.zeros((1 if pooled else length, states[0].shape[-1]), np.float32)
            for j, weight in enumerate(weights[:, row].astype(np.float32)):
                own = states[j][row, :length]
                mixed += weight * (own.mean(0, keepdim=True) if pooled else own).numpy()
            yield Encoded(mixed, weights[:, row])


def _logp(logits: "torch.Tensor", ids: "torch.Tensor", lengths: Sequence[int]) -> NDArray[Any]:
    """Sum log p of the tokens of each text, without the filling behind it."""
    logp = logits[:, :-1].float().log_softmax(-1).cpu()
    own = logp.gather(-1, ids[:, 1:, None])[..., 0].double().numpy()
    return np.array([row[:length].sum() for row, length in zip(own, lengths, strict=True)])


def groups(texts: Sequence[NDArray[np.int64]]) -> Iterator[list[int]]:
    """Number the texts in groups of like length that are read together, the longest first."""
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    while order:
        rows = max(1, _TOKENS // (len(texts[order[0]]) + 1))
        yield order[:rows]
        order = order[rows:]
