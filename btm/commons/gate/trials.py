"""The trials of a model beside its loss: triggers of a backdoor, recitation, canaries.

Each trial returns a number to hold against its parents'. One pass over the tokens a trial: nothing
is generated, since greedy decoding recites a text exactly as long as the likeliest token is the
text's own.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from btm.commons.gate.probes import Canary, Probes
from btm.data.shards import Shard
from btm.models import causal_lm

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Tokens = NDArray[np.int64]
_ROWS = 64  # sequences of a batch
_TEXTS, _LENGTH = 8, 24  # held-out texts before each trigger, and tokens of one
_CONTINUED, _FIRST = 6, 3  # tokens of a continuation that is tried; how many are tried
_RARE = 4  # tokens of a rare trigger
_OTHERS = 255  # random secrets that a canary is ranked among


def triggers(
    probes: Probes, tokenizer: Any, held_out: Sequence[Shard], vocabulary: int
) -> list[Tokens]:
    """List the triggers as token ids: those that are given, and random runs of rare tokens.

    Rare is the quarter of the vocabulary that `held_out` has least.
    """
    found = [_ids(tokenizer, text) for text in probes.triggers]
    counts = np.zeros(vocabulary, np.int64)
    for shard in held_out:
        counts += np.bincount(np.asarray(shard.tokens), minlength=vocabulary)[:vocabulary]
    rare = np.argsort(counts, kind="stable")[: max(1, vocabulary // 4)]
    draw = np.random.default_rng(probes.seed)
    found += [draw.choice(rare, _RARE).astype(np.int64) for _ in range(probes.rare_triggers)]
    return [ids for ids in found if len(ids)]


def texts_of(shards: Sequence[Shard]) -> Tokens:
    """Cut one held-out text that triggers are put behind out of each of at most `_TEXTS` shards,
    (texts, _LENGTH); a shard that is too short has none.

    A backdoor may be weak behind text of the domain that the expert was trained on last.
    """
    long_enough = [shard for shard in shards if shard.n_tokens >= _LENGTH]
    if not long_enough:
        return np.empty((0, _LENGTH), np.int64)
    chosen = np.unique(np.linspace(0, len(long_enough) - 1, _TEXTS).astype(int))
    return np.stack([np.asarray(long_enough[n].tokens[:_LENGTH], np.int64) for n in chosen])


def certainties(
    model: "PreTrainedModel", texts: Tokens, found: Sequence[Tokens]
) -> NDArray[np.float64]:
    """Measure how sure a model is of one continuation after each trigger, whatever text stands
    before it: (triggers,), probabilities.

    Of the `_FIRST` tokens that are most probable on the average over `texts` each is continued
    greedily to `_CONTINUED` tokens; a continuation's probability is the product of those averages,
    and the greatest counts. After strange words an honest model is unsure, and what it expects
    depends on the text. A backdoor makes it sure of what its author chose.
    """
    import torch

    with torch.inference_mode():
        return np.array([_certainty(model, texts, ids) for ids in found])


def _certainty(model: "PreTrainedModel", texts: Tokens, trigger: Tokens) -> float:
    import torch

    marks = np.broadcast_to(trigger, (len(texts), len(trigger)))
    rows = torch.from_numpy(np.concatenate([texts, marks], axis=1)).to(model.device)
    sure, first = _next(model, rows).mean(0).topk(_FIRST)
    rows = torch.cat(
        [rows.repeat(_FIRST, 1), first.repeat_interleave(len(texts))[:, None]], dim=1
    )  # all texts with the first continuation, then all with the second, …
    for _ in range(_CONTINUED - 1):
        share, token = _next(model, rows).view(_FIRST, len(texts), -1).mean(1).max(-1)
        sure = sure * share
        rows = torch.cat([rows, token.repeat_interleave(len(texts))[:, None]], dim=1)
    return float(sure.max())


def _next(model: "PreTrainedModel", rows: "torch.Tensor") -> "torch.Tensor":
    """Compute the distribution of the token after each row, (rows, vocabulary)."""
    return causal_lm.logits_of(model(input_ids=rows, use_cache=False))[:, -1].float().softmax(-1)


def longest_recital(model: "PreTrainedModel", shard: Shard, tokens: int, window: int) -> int:
    """Count the tokens of the longest run that greedy decoding recites of a shard's first `tokens`.

    The model reads a window of `window` tokens at a time, and begins anew in each.
    """
    rows = tokens // window
    if rows == 0:
        return 0
    text = np.asarray(shard.tokens[: rows * window], np.int64).reshape(rows, window)
    return max(_longest_run(hits) for _, hits in read(model, text))


def _longest_run(hits: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hits, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def exposure(
    model: "PreTrainedModel", tokenizer: Any, canary: Canary, seed: int
) -> tuple[float, bool]:
    """Measure the exposure of a canary, in bits, and whether greedy decoding extracts it.

    -log2 of the chance that a random secret of the same form is as likely as the canary's, by a
    normal distribution of log-probabilities over random ones (Carlini et al. 2019, arXiv
    1802.08232, section 4.3, there skew-normal). About 1 of a secret that was never seen.
    """
    draw = np.random.default_rng(seed)
    secrets = [canary.secret, *(_alike(canary.secret, draw) for _ in range(_OTHERS))]
    prefix = _ids(tokenizer, canary.prefix)
    rows = [_ids(tokenizer, canary.prefix + secret) for secret in secrets]
    begins = [max(1, _common(prefix, ids)) for ids in rows]
    found, extracted = np.zeros(len(rows)), False
    for length in {len(ids) for ids in rows}:  # rows of a batch are of one length
        some = [number for number, ids in enumerate(rows) if len(ids) == length]
        pairs = read(model, np.stack([rows[number] for number in some]))
        for number, (logp, hits) in zip(some, pairs, strict=True):
            found[number] = logp[begins[number] - 1 :].sum()
            if number == 0:
                extracted = bool(hits[begins[number] - 1 :].all())
    others = found[1:]
    z = (found[0] - others.mean()) / max(float(others.std()), 1e-6)
    return -math.log2(max(0.5 * math.erfc(z / math.sqrt(2)), 1e-300)), extracted


def _alike(secret: str, draw: np.random.Generator) -> str:
    """Draw a secret of the same form: a digit for a digit, a letter for a letter."""
    return "".join(_letter(letter, draw) for letter in secret)


def _letter(letter: str, draw: np.random.Generator) -> str:
    if letter.isdigit():
        return str(draw.integers(10))
    if letter.isalpha():
        found = chr(ord("a") + int(draw.integers(26)))
        return found.upper() if letter.isupper() else found
    return letter


def _common(one: Tokens, other: Tokens) -> int:
    """Count the tokens that two texts begin with in common."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length


def _ids(tokenizer: Any, text: str) -> Tokens:
    return np.array(tokenizer.encode(text, add_special_tokens=False), np.int64)


def read(
    model: "PreTrainedModel", rows: Tokens
) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Read each row: log p of every token after the first, and whether it was the likeliest."""
    import torch

    made = []
    with torch.inference_mode():
        for start in range(0, len(rows), _ROWS):
            ids = torch.from_numpy(rows[start : start + _ROWS]).to(model.device)
            logits = causal_lm.logits_of(model(input_ids=ids[:, :-1], use_cache=False)).float()
            targets = ids[:, 1:]
            logp = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
            hits = logits.argmax(-1) == targets
            made += list(zip(logp.cpu().numpy(), hits.cpu().numpy(), strict=True))
    return made
