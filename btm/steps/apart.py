"""How far apart the text of several ELMs is, by its bytes alone: a warning before an average.

The divergence is that of Jensen and Shannon of the frequencies p_i of pairs of bytes in the ELMs'
training text (Lin 1991, eq. 5.1): J = H(Σ w_i p_i) − Σ w_i H(p_i) in bits, with w_i the weights of
the average. It is what two neighbouring bytes tell of which text they are from. It needs no model,
and unlike that of tokens it does not depend on the vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.config.schema import Config
from btm.data.shards import Shard, Suite
from btm.data.tokenizer import load_tokenizer
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.suites import open_suites

FAR = 0.3  # bits; beyond it averages were worse than the seed (docs/averaging.md)
_RUNS, _RUN = 64, 2048  # of a shard so many pieces are read, of so many tokens each


def warnings(config: Config, forest: Forest, name: str, weights: Mapping[str, float]) -> list[str]:
    """Warn, in a line, of an average `name` of ELMs whose text is further apart than `FAR`.

    Nothing is said of an average for one domain, of one that subtracts ELMs, and where the text of
    one of them is unknown or not prepared.
    """
    if config.domain or any(weight < 0 for weight in weights.values()):
        return []
    try:
        counts_MP = _counts(open_suites(config), forest, weights)
    except UserError:
        return []
    bits = divergence(counts_MP, np.array(list(weights.values())))
    if bits <= FAR:
        return []
    return [
        f"the domains of {', '.join(weights)} share little (divergence {bits:.2f} bits, more than "
        f"{FAR:g}): {name} is likely to be worse than the seed (docs/averaging.md): average some "
        "that are alike, or deploy the ensemble"
    ]


def divergence(counts_MP: NDArray[np.int64], weights_M: NDArray[np.float64]) -> float:
    """Estimate the Jensen–Shannon divergence in bits of M texts by their counts of P features.

    It is adjusted for chance, as small samples of one text differ too: what samples of the same
    sizes from the mixture have is taken off.
    """
    w_M = weights_M / weights_M.sum()
    p_P = w_M @ (counts_MP / counts_MP.sum(axis=1, keepdims=True))
    rng = np.random.default_rng(0)
    chance_MP = rng.multinomial(counts_MP.sum(axis=1), p_P / p_P.sum())
    return _plain(counts_MP, w_M) - _plain(chance_MP, w_M)


def _plain(counts_MP: NDArray[np.int64], w_M: NDArray[np.float64]) -> float:
    p_MP = counts_MP / counts_MP.sum(axis=1, keepdims=True)
    return _entropy(w_M @ p_MP) - float(
        sum(w * _entropy(p) for w, p in zip(w_M, p_MP, strict=True))
    )


def _entropy(p_P: NDArray[np.float64]) -> float:
    p = p_P[p_P > 0]
    return -float(p @ np.log2(p))


def _counts(suite: Suite, forest: Forest, names: Mapping[str, float]) -> NDArray[np.int64]:
    """Count the pairs of bytes of each ELM's training text, (M, 65536); `UserError` if it is not
    there.
    """
    tokenizer, rows = tokenizer_of(suite), []
    for name in names:
        shards = [suite.shard(domain, "train") for domain in forest[name].card.domains]
        if not sum(shard.n_tokens for shard in shards):
            raise UserError(f"{name!r} was trained on no text that is known")
        rows.append(np.sum([count(shard, tokenizer) for shard in shards], axis=0))
    return np.array(rows)


def count(shard: Shard, tokenizer: Any) -> NDArray[np.int64]:
    """Count the pairs of neighbouring bytes of a shard's text, (65536,).

    Of a large one pieces spread over it are read, and their counts scaled up to its size.
    """
    size = min(_RUN, -(-shard.n_tokens // _RUNS))
    begins = np.linspace(0, shard.n_tokens - size, _RUNS).astype(np.int64)
    pieces = [shard.tokens[begin : begin + size].tolist() for begin in begins]
    found = np.zeros(1 << 16, np.int64)
    for text in tokenizer.decode_batch(pieces, skip_special_tokens=True):
        read = np.frombuffer(text.encode(errors="replace"), np.uint8).astype(np.int64)
        found += np.bincount(read[:-1] << 8 | read[1:], minlength=1 << 16)
    return found * max(1, shard.n_tokens // (_RUNS * size))


def tokenizer_of(suite: Suite) -> Any:
    """Load the tokenizer of a suite, without transformers where that is possible."""
    from tokenizers import Tokenizer

    file = suite.tokenizer / "tokenizer.json"
    if file.is_file():
        return Tokenizer.from_file(str(file))
    return load_tokenizer(suite.tokenizer).backend_tokenizer
