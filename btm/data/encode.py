"""Documents to token ids, in two ways that agree: `tokenizers`, and a faster one by `tiktoken`.

The fast way serves byte-level BPE that splits words as GPT-2 does. GPT-2's pattern looks ahead in
one place only: of several blanks before a word, the last belongs to the word. Without that
lookahead tiktoken matches with a plain automaton, about twice as fast; so the place is marked
beforehand, with a control character whose token is dropped again. A second one marks where a
document ends, which makes a whole chunk of documents one call. A document that holds either of the
two takes the slow way.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from btm.data.bytelevel import mergeable_ranks
from btm.data.slices import BLANKS, SLICE, slices, utf8_size
from btm.data.tokenizer import read_origin
from btm.errors import UserError
from btm.system.json_files import Json

Chunk = tuple[str, list[str]]  # a split, and documents of it
_CUT, _END = "\x01", "\x02"
_SENT = (
    1 << 23
)  # characters of a chunk that is worth sending to another process; a larger one stays
_OVERLAP = 1 << 12  # characters that two windows over a document share
_ALIKE = 32  # tokens in which two windows must agree to be joined there
_PATTERN = (
    rf"{_CUT}|{_END}|'(?:[sdmt]|ll|ve|re)| ?\p{{L}}+| ?\p{{N}}+|"
    rf" ?[^\s\p{{L}}\p{{N}}{_CUT}{_END}]+|\s+"
)
_IS_BLANK = np.zeros(0x3002, bool)
_IS_BLANK[[ord(blank) for blank in BLANKS]] = True


class Packed(NamedTuple):
    """Encoded documents: all ids, each document with its EOS, and (tokens, bytes), (D, 2)."""

    ids: np.ndarray
    sizes: np.ndarray


class Encoder:
    """Encodes documents as token ids; special tokens spelt out in a text are ordinary text."""

    def __init__(
        self, spec: str, eos: int, vocab_size: int, fast: bool = True, bos: int | None = None
    ) -> None:
        """Take the content of a tokenizer.json; `fast` allows the way through tiktoken.

        With `bos` each document begins with that id, unless it is the EOS: the document before has
        ended with it.
        """
        self.spec, self.eos, self.vocab_size, self.bos = spec, eos, vocab_size, bos
        self.dtype = token_type(vocab_size)
        content = json.loads(spec)
        self._slow = backend(content, eos)
        ranks = mergeable_ranks(content)
        self._words = ranks is not None  # whether a text is split into words as GPT-2 does
        self._fast: Any = None
        if fast and ranks is not None:
            import tiktoken

            self._fast = tiktoken.Encoding(
                "btm", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={}
            ).encode_ordinary
            self._cut, self._end = ranks[_CUT.encode()], ranks[_END.encode()]

    @classmethod
    def open(cls, folder: Path, samples: Sequence[str] = ()) -> "Encoder":
        """Load a suite's tokenizer, the fast way if it gives the same ids on `samples`."""
        origin = read_origin(folder)
        spec = (folder / "tokenizer.json").read_text(encoding="utf-8")
        encoder = cls(spec, origin["eos"], origin["vocab_size"], bos=origin.get("bos"))
        if encoder.agrees_on(samples):
            return encoder
        return cls(spec, encoder.eos, encoder.vocab_size, fast=False, bos=encoder.bos)

    @property
    def fast(self) -> bool:
        """Whether tiktoken does the work."""
        return self._fast is not None

    def agrees_on(self, samples: Sequence[str]) -> bool:
        """Tell whether both ways give the same ids."""
        if not self.fast or not samples:
            return True
        return np.array_equal(self._encode_fast(samples).ids, self._encode_slow(samples).ids)

    def encode(self, documents: Sequence[str]) -> Packed:
        """Encode documents, each followed by EOS, and after a BOS if the tokenizer has that.

        A long document is encoded slice by slice, in memory that does not grow with its length.
        """
        if any(len(text) > SLICE for text in documents):
            packed = _joined([self._encode_any(text) for text in documents])
        else:
            packed = self._encode_short(documents)
        return packed if self.bos in (None, self.eos) else _after_bos(packed, self.bos)

    def _encode_short(self, documents: Sequence[str]) -> Packed:
        return (self._encode_fast if self.fast else self._encode_slow)(documents)

    def _encode_any(self, text: str) -> Packed:
        """Encode one document of any length."""
        if len(text) <= SLICE:
            return self._encode_short([text])
        if self._words:
            parts = [self._encode_short([part]).ids[:-1] for part in slices(text)]
        else:
            parts = list(self._windows(text))
        ids = np.concatenate([*parts, np.array([self.eos], self.dtype)])
        return Packed(ids, np.array([[len(ids), utf8_size(text)]], np.uint32))

    def _windows(self, text: str) -> Iterator[np.ndarray]:
        """Yield the ids of a long document in parts, by windows that overlap.

        A tokenizer may look at what stands around, or treat a beginning in its own way. Where two
        windows agree on `_ALIKE` tokens and their places, either could be the whole text; they are
        joined there. Without such a place, as in a run of one character, one begins where the
        other ends.
        """
        begin, these_T3 = 0, self._tokens(text, 0)
        while begin + SLICE < len(text):
            begin += SLICE - _OVERLAP
            those_T3 = self._tokens(text, begin)
            seam = _seam(these_T3, those_T3)
            if seam is None:
                n = _until(these_T3, begin + _OVERLAP // 2)
                begin = int(these_T3[n - 1, 2])
                seam, those_T3 = (n, 0), self._tokens(text, begin)
            yield these_T3[: seam[0], 0].astype(self.dtype)
            these_T3 = those_T3[seam[1] :]
        yield these_T3[:, 0].astype(self.dtype)

    def _tokens(self, text: str, begin: int) -> np.ndarray:
        """Encode a window; (id, begin, end) of each token, places counted in the whole text."""
        found = self._slow.encode(text[begin : begin + SLICE], add_special_tokens=False)
        spans_T2 = np.array(found.offsets, np.int64).reshape(-1, 2) + begin
        return np.concatenate([np.array(found.ids, np.int64)[:, None], spans_T2], axis=1)

    def _encode_fast(self, documents: Sequence[str]) -> Packed:
        text = _END.join(documents) + _END
        # A mark inside a document would be taken for one of ours and dropped.
        if _CUT in text or text.count(_END) > len(documents):
            return self._encode_apart(documents)
        found = self._fast(_mark(text))
        ids = np.fromiter(found, self.dtype, len(found))
        ids = ids[ids != self._cut]
        ends = np.flatnonzero(ids == self._end)
        ids[ends] = self.eos
        return Packed(ids, _sizes(np.diff(ends, prepend=-1), documents))

    def _encode_apart(self, documents: Sequence[str]) -> Packed:
        """Encode one by one, because some document holds a character that serves as a mark."""
        marked = [_CUT in text or _END in text for text in documents]
        ways = [self._encode_slow if m else self._encode_fast for m in marked]
        packed = [way([text]) for way, text in zip(ways, documents, strict=True)]
        return _joined(packed)

    def _encode_slow(self, documents: Sequence[str]) -> Packed:
        encodings = self._slow.encode_batch_fast(list(documents), add_special_tokens=False)
        ids_D = [np.array([*encoding.ids, self.eos], self.dtype) for encoding in encodings]
        lengths_D = np.array([len(ids) for ids in ids_D])
        return Packed(np.concatenate(ids_D), _sizes(lengths_D, documents))


def _seam(these_T3: np.ndarray, those_T3: np.ndarray) -> tuple[int, int] | None:
    """Find the first place where two windows agree: the tokens of each before it, None without.

    Both are (id, begin, end) of each token.
    """
    places = {tuple(row): i for i, row in enumerate(those_T3[: 4 * _OVERLAP].tolist())}
    first = int(np.searchsorted(these_T3[:, 1], those_T3[0, 1])) if len(those_T3) else 0
    found_T = np.array([places.get(tuple(row), -1) for row in these_T3[first:].tolist()], np.int64)
    if len(found_T) < _ALIKE:
        return None
    follows_T = (found_T[:-1] >= 0) & (found_T[1:] == found_T[:-1] + 1)
    alike_T = np.lib.stride_tricks.sliding_window_view(follows_T, _ALIKE - 1).all(axis=1)
    if not alike_T.any():
        return None
    at = int(alike_T.argmax())
    return first + at, int(found_T[at])


def _until(tokens_T3: np.ndarray, place: int) -> int:
    """Count the tokens up to a place in the text, with all that its last character is made of."""
    n = max(1, int(np.searchsorted(tokens_T3[:, 1], place)))
    while n < len(tokens_T3) and tokens_T3[n, 1] < tokens_T3[n - 1, 2]:
        n += 1
    return n


def _joined(packed: Sequence[Packed]) -> Packed:
    """Put the documents of several behind one another."""
    ids, sizes = zip(*packed, strict=True)
    return Packed(np.concatenate(ids), np.concatenate(sizes))


EncodeAll = Callable[[Iterable[Chunk]], Iterator[tuple[str, Packed]]]


@contextmanager
def encoding(encoder: Encoder, workers: int) -> Iterator[EncodeAll]:
    """Yield a function that encodes chunks in `workers` processes and keeps their order.

    Processes are spawned, since a fork could inherit a locked thread pool: a script that gets here
    with more than one worker must guard its entry with ``if __name__ == "__main__":``.
    """
    if workers == 1:
        yield lambda chunks: ((split, encoder.encode(texts)) for split, texts in chunks)
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    args = (encoder.spec, encoder.eos, encoder.vocab_size, encoder.fast, encoder.bos)
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, args) as pool:
        try:
            yield lambda chunks: _in_order(pool, encoder, chunks, 2 * workers)
        except BrokenProcessPool:
            raise UserError(
                "a process that tokenizes died (out of memory?); try data.workers=1"
            ) from None


def token_type(vocab_size: int) -> np.dtype:
    """Choose the type of token ids on disk."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def cores() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_order(
    pool: Any, encoder: Encoder, chunks: Iterable[Chunk], ahead: int
) -> Iterator[tuple[str, Packed]]:
    """Yield results in the order of `chunks`, with at most `ahead` of them in memory.

    A large one is encoded here: copies of it in two processes would take more than they save.
    """
    from collections import deque

    pending: deque[Any] = deque()
    for split, texts in chunks:
        if sum(map(len, texts)) > _SENT:
            while pending:
                earlier, future = pending.popleft()
                yield earlier, future.result()
            yield split, encoder.encode(texts)
            continue
        pending.append((split, pool.submit(_encode, texts)))
        if len(pending) > ahead:
            split, future = pending.popleft()
            yield split, future.result()
    for split, future in pending:
        yield split, future.result()


_encoder: Encoder | None = None  # a worker process's own, loaded once


def _begin(*args: Any) -> None:
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _encoder = Encoder(*args)


def _encode(texts: list[str]) -> Packed:
    assert _encoder is not None
    return _encoder.encode(texts)


def _mark(text: str) -> str:
    """Put `_CUT` before the last of several blanks, except where a document ends."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    blank = _IS_BLANK[np.minimum(codes, len(_IS_BLANK) - 1)]
    cuts = np.flatnonzero(blank[:-2] & blank[1:-1] & ~blank[2:] & (codes[2:] != ord(_END))) + 1
    if not len(cuts):
        return text
    return np.insert(codes, cuts, ord(_CUT)).tobytes().decode("utf-32-le")


def _after_bos(packed: Packed, bos: int) -> Packed:
    """Put `bos` before each document."""
    lengths_D = packed.sizes[:, 0].astype(np.int64)
    sizes = packed.sizes.copy()
    sizes[:, 0] += 1
    return Packed(np.insert(packed.ids, np.cumsum(lengths_D) - lengths_D, bos), sizes)


def _sizes(tokens_D: np.ndarray, documents: Sequence[str]) -> np.ndarray:
    bytes_D = [utf8_size(text) for text in documents]
    return np.stack([tokens_D, bytes_D], axis=1).astype(np.uint32)


def backend(content: Json, eos: int) -> Any:
    """Make the tokenizer of a tokenizer.json; special tokens spelt out in a text are ordinary."""
    from tokenizers import Tokenizer

    for token in content.get("added_tokens", []):
        token["special"] = token["special"] or token["id"] == eos
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A special token spelt out in a text is ordinary text.
    tokenizer.encode_special_tokens = True
    return tokenizer
