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
from btm.data.tokenizer import read_origin
from btm.errors import UserError
from btm.system.json_files import Json

Chunk = tuple[str, list[str]]  # a split, and documents of it
_CUT, _END = "\x01", "\x02"
_PATTERN = (
    rf"{_CUT}|{_END}|'(?:[sdmt]|ll|ve|re)| ?\p{{L}}+| ?\p{{N}}+|"
    rf" ?[^\s\p{{L}}\p{{N}}{_CUT}{_END}]+|\s+"
)
# Unicode's White_Space: the meaning of \s in both libraries, and other than that of str.isspace.
_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000".replace(
    "\u2000-\u200a", "".join(map(chr, range(0x2000, 0x200B)))
)
_IS_BLANK = np.zeros(0x3002, bool)
_IS_BLANK[[ord(blank) for blank in _BLANKS]] = True


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
        self._slow = _load(content, eos)
        ranks = mergeable_ranks(content) if fast else None
        self._fast: Any = None
        if ranks is not None:
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
        """Encode documents, each followed by EOS, and after a BOS if the tokenizer has that."""
        way = self._encode_fast if self.fast else self._encode_slow
        packed = way(documents)
        return packed if self.bos in (None, self.eos) else _after_bos(packed, self.bos)

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
        ids, sizes = zip(*packed, strict=True)
        return Packed(np.concatenate(ids), np.concatenate(sizes))

    def _encode_slow(self, documents: Sequence[str]) -> Packed:
        encodings = self._slow.encode_batch_fast(list(documents), add_special_tokens=False)
        ids_D = [np.array([*encoding.ids, self.eos], self.dtype) for encoding in encodings]
        lengths_D = np.array([len(ids) for ids in ids_D])
        return Packed(np.concatenate(ids_D), _sizes(lengths_D, documents))


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
            yield lambda chunks: _in_order(pool, chunks, 2 * workers)
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


def _in_order(pool: Any, chunks: Iterable[Chunk], ahead: int) -> Iterator[tuple[str, Packed]]:
    """Yield results in the order of `chunks`, with at most `ahead` of them in memory."""
    from collections import deque

    pending: deque[Any] = deque()
    for split, texts in chunks:
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
    bytes_D = [len(text) if text.isascii() else len(text.encode()) for text in documents]
    return np.stack([tokens_D, bytes_D], axis=1).astype(np.uint32)


def _load(content: Json, eos: int) -> Any:
    from tokenizers import Tokenizer

    for token in content.get("added_tokens", []):
        token["special"] = token["special"] or token["id"] == eos
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A special token spelt out in a text is ordinary text.
    tokenizer.encode_special_tokens = True
    return tokenizer
