"""Likeness of documents by MinHash (Broder, On the resemblance and containment of documents).

Two documents are as alike as their sets of shingles, runs of `SHINGLE` token ids, overlap (Jaccard
index). The part of equal slots in two signatures estimates it, with a standard deviation of 0.035
at `LIKENESS`. Signatures that agree in no band are not compared (locality-sensitive hashing), which
misses 5 % of the pairs that share 0.80 and one in ten thousand of those that share 0.90. All of it
follows from the token ids alone.

D documents, H documents of the index, S slots, T tokens, P pairs.
"""

from collections.abc import Iterator

import numpy as np

from btm.data.shards import Shard

LIKENESS = 0.8  # estimated Jaccard index from which two documents are near-duplicates
SHINGLE = 8  # tokens, about as many as five words
SLOTS, _BANDS = 128, 16
_ENOUGH = 8
_SEED = 0
_CHUNK = 1 << 20  # tokens hashed at once
_PAIRS = 1 << 16  # compared at once
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, a multiplier that mixes


def signatures(shard: Shard) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (numbers of documents (D,), their signatures uint32 (D, S)), a chunk at a time.

    Documents that are shorter than a shingle have none and are left out.
    """
    for documents, tokens in shard.chunks(_CHUNK):
        sizes_D = shard.documents[documents, 0].astype(np.int64)
        counts_D = np.maximum(sizes_D - SHINGLE, 0)  # of shingles; none of them holds the EOS
        kept = np.flatnonzero(counts_D)
        if len(sizes_D) == 1 and len(kept):  # it may be longer than a chunk
            yield documents.start + kept, _of_one(shard.tokens[tokens], int(counts_D[0]))
        elif len(kept):
            hashes = _shingles(np.asarray(shard.tokens[tokens]))[_inside(sizes_D, counts_D)]
            yield documents.start + kept, _signed(hashes, counts_D[kept])


def _of_one(tokens_T: np.ndarray, count: int) -> np.ndarray:
    """Compute the signature of one document of `count` shingles, (1, S), a chunk at a time.

    A slot is the least hash of all shingles, and so the least of the chunks' slots.
    """
    least = np.full((1, SLOTS), np.iinfo(np.uint32).max, np.uint32)
    for begin in range(0, count, _CHUNK):
        n = min(_CHUNK, count - begin)
        hashes = _shingles(np.asarray(tokens_T[begin : begin + n + SHINGLE]))[:n]
        least = np.minimum(least, _signed(hashes, np.array([n])))
    return least


def _signed(hashes: np.ndarray, counts_D: np.ndarray) -> np.ndarray:
    """Compute signatures, uint32 (D, S), from the hashes of all shingles, document by document."""
    from rensa import RMinHash

    offsets = np.concatenate([[0], np.cumsum(counts_D)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, SLOTS, _SEED)
    return np.array(matrix.to_rows(), np.uint32)


def _shingles(tokens_T: np.ndarray) -> np.ndarray:
    """Hash the run of `SHINGLE` tokens that begins at each token, uint64 (T,).

    The last runs are cut short; no document needs them.
    """
    padded = np.concatenate([tokens_T.astype(np.uint64), np.zeros(SHINGLE, np.uint64)])
    hashes_T = np.zeros(len(tokens_T), np.uint64)
    for i in range(SHINGLE):
        hashes_T ^= padded[i : i + len(tokens_T)]
        hashes_T *= _ODD
        hashes_T ^= hashes_T >> np.uint64(29)
    return hashes_T


def _inside(sizes_D: np.ndarray, counts_D: np.ndarray) -> np.ndarray:
    """Mark the tokens, (T,), at which a shingle begins that stays within its document."""
    starts_D = np.cumsum(sizes_D) - sizes_D
    place_T = np.arange(int(sizes_D.sum())) - np.repeat(starts_D, sizes_D)
    return place_T < np.repeat(counts_D, sizes_D)


class Index:
    """Signatures to find near-duplicates among, in 800 bytes each."""

    def __init__(self, signatures_HS: np.ndarray) -> None:
        """Sort the bands of signatures, uint32 (H, S)."""
        self._signatures = signatures_HS
        keys = list(_bands(signatures_HS))
        self._orders = [np.argsort(keys_H, kind="stable") for keys_H in keys]
        self._keys = [keys_H[order_H] for keys_H, order_H in zip(keys, self._orders, strict=True)]

    def near(self, signatures_DS: np.ndarray, known_H: np.ndarray) -> np.ndarray:
        """Find which documents are near one of the index, bool (D,).

        Those of the index that are near one of these are marked in `known_H`, bool (H,). Where all
        that share a band with a document are marked already, `_ENOUGH` of them are looked at: so
        many copies of one text do not take their number squared.
        """
        near_D = np.zeros(len(signatures_DS), bool)
        for band, keys_D in enumerate(_bands(signatures_DS)):
            order_H, sorted_H = self._orders[band], self._keys[band]
            first_D = np.searchsorted(sorted_H, keys_D, side="left")
            counts_D = np.searchsorted(sorted_H, keys_D, side="right") - first_D
            for asked in _portions(counts_D):
                first, counts = first_D[asked], counts_D[asked]
                unknown_H = np.concatenate([[0], np.cumsum(~known_H[order_H])])
                all_known = unknown_H[first + counts] == unknown_H[first]
                enough = np.where(near_D[asked], 0, np.minimum(counts, _ENOUGH))
                counts = np.where(all_known, enough, counts)
                asked_P = np.repeat(np.arange(asked.start, asked.stop), counts)
                steps_P = np.arange(len(asked_P)) - np.repeat(np.cumsum(counts) - counts, counts)
                known_P = order_H[np.repeat(first, counts) + steps_P]
                equal_PS = signatures_DS[asked_P] == self._signatures[known_P]
                near_P = equal_PS.mean(axis=1) >= LIKENESS
                near_D[asked_P[near_P]] = True
                known_H[known_P[near_P]] = True
        return near_D


def _bands(signatures_DS: np.ndarray) -> Iterator[np.ndarray]:
    """Yield a key for each signature, uint64 (D,), band by band: equal slots give equal keys."""
    for slots in np.split(signatures_DS.astype(np.uint64), _BANDS, axis=1):
        keys_D = np.zeros(len(slots), np.uint64)
        for column in slots.T:
            keys_D ^= column
            keys_D *= _ODD
            keys_D ^= keys_D >> np.uint64(29)
        yield keys_D


def _portions(counts_D: np.ndarray) -> Iterator[slice]:
    """Cut documents into runs of about `_PAIRS` pairs; those without a pair may be left out."""
    ends_D = np.cumsum(counts_D)
    begin = done = 0
    while begin < len(counts_D):
        end = max(begin + 1, int(np.searchsorted(ends_D, done + _PAIRS, side="right")))
        if ends_D[end - 1] > done:
            yield slice(begin, end)
        begin, done = end, int(ends_D[end - 1])
