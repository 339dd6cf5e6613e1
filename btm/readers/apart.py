"""Texts read by each model that a reader stands on, apart from the others: hidden states of the
models that likely know a text's domain, and likelihoods of what goes on from it.

Shapes: E models, K of them chosen, T tokens, H the width of hidden states, P pairs of texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from btm.errors import UserError
from btm.models import causal_lm
from btm.readers.ground import Ground, groups

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Apart:
    """A text as the models likeliest to know its domain read it, the likeliest first."""

    states: NDArray[np.float16]  # (K, T, H): the last hidden states
    experts: NDArray[np.int64]  # (K,): numbers of the models
    weights: NDArray[np.float32]  # (K,): p(D | text) among them, under a uniform prior


def check_experts(experts: int) -> None:
    """Raise `UserError` unless so many experts can be asked."""
    if experts < 1:
        raise UserError(f"reader.options: experts={experts}: wanted 1 or more")


def read(ground: Ground, texts: Sequence[Ids], begins: Sequence[int], experts: int) -> list[Apart]:
    """Read token ids by every model; keep the hidden states of the `experts` likeliest of each.

    The posterior of a text is of its tokens from `begins` on: the support, not the question before
    it. A text is at most `ground.context` tokens.
    """
    found: list[Apart | None] = [None] * len(texts)
    for numbers in groups(texts):
        some = [texts[n] for n in numbers]
        states, logp = [], []
        for model in ground.loaded:
            states_BTH, logp_BT = _forward(ground, model, some)
            states.append(states_BTH)
            logp.append([own[begins[n] :].sum() for n, own in zip(numbers, logp_BT, strict=True)])
        posterior_EB = _softmax(np.array(logp))
        for row, number in enumerate(numbers):
            chosen = np.argsort(-posterior_EB[:, row], kind="stable")[:experts]
            weights = posterior_EB[chosen, row]
            found[number] = Apart(
                np.stack([states[j][row, : len(some[row])] for j in chosen]),
                chosen.astype(np.int64),
                (weights / weights.sum()).astype(np.float32),
            )
    return [each for each in found if each is not None]


def likelihoods(
    ground: Ground, pairs: Sequence[tuple[Ids, Ids]], experts: int
) -> NDArray[np.float64]:
    """Compute log p(continuation | context) of pairs of token ids, (P,).

    Of several models it is that of their ensemble: as Bayes' rule goes on token by token, the sum
    over a continuation is log Σ_j p(D=j | context) p_j(continuation | context). The `experts`
    likeliest are asked. A context that is too long loses its beginning.
    """
    cut = [(context[-(ground.context - len(last)) :], last) for context, last in pairs]
    texts = [np.concatenate(pair) for pair in cut]
    found = np.zeros(len(pairs))
    for numbers in groups(texts):
        some = [texts[n] for n in numbers]
        before, after = [], []
        for model in ground.loaded:
            _, logp_BT = _forward(ground, model, some, states=False)
            splits = [(own, len(cut[n][0])) for n, own in zip(numbers, logp_BT, strict=True)]
            before.append([own[:at].sum() for own, at in splits])
            after.append([own[at:].sum() for own, at in splits])
        posterior_EB = _softmax(np.array(before))
        least_B = np.sort(posterior_EB, axis=0)[-min(experts, len(posterior_EB))]
        weights_EB = np.where(posterior_EB >= least_B, posterior_EB, 0)
        with np.errstate(divide="ignore"):
            logw_EB = np.log(weights_EB / weights_EB.sum(axis=0))
        found[numbers] = np.logaddexp.reduce(logw_EB + np.array(after), axis=0)
    return found


def _forward(
    ground: Ground, model: torch.nn.Module, texts: Sequence[Ids], *, states: bool = True
) -> tuple[NDArray[np.float16], list[NDArray[np.float64]]]:
    """Read texts of like length in one pass: hidden states (B, T, H), log p of their tokens."""
    ids = torch.full((len(texts), max(map(len, texts)) + 1), ground.start)
    for row, text in enumerate(texts):
        ids[row, 1 : len(text) + 1] = torch.from_numpy(text)
    with torch.inference_mode():
        out = model(input_ids=ids.to(ground.device), output_hidden_states=states, use_cache=False)
        logits_BTV = causal_lm.logits_of(out)[:, :-1].float()
        logp_BT = logits_BTV.log_softmax(-1).cpu().gather(-1, ids[:, 1:, None])[..., 0]
    kept = out.hidden_states[-1][:, 1:].half().cpu().numpy() if states else np.empty(0, np.float16)
    rows = logp_BT.double().numpy()
    return kept, [row[: len(text)] for row, text in zip(rows, texts, strict=True)]


def _softmax(logp_EB: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logp_EB - logp_EB.max(axis=0))
    found: NDArray[np.float64] = weights / weights.sum(axis=0)
    return found
