"""A fairseq dictionary as a Hugging Face tokenizer with the same ids, and the way back.

fairseq knows two kinds of text. Words: a line is split at blanks, each word is a symbol. GPT-2's
byte pairs: text goes through ``encoder.json`` and ``vocab.bpe``, and each token's number, in
decimal digits, is the symbol.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError
from btm.fairseq import dictionary as dictionaries
from btm.fairseq.dictionary import EOS, SPECIALS, Dictionary
from btm.system import lfs
from btm.system.durable import write_json
from btm.system.json_files import Json, read_object

ENCODER, MERGES = "encoder.json", "vocab.bpe"
_BLANK = r"[\s\x1c-\x1f]+"  # the separators of Python's str.split()
_WHERE = "https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/"


def find_dictionary(folder: Path) -> Dictionary:
    """Read the dictionary in `folder`; `UserError` names a missing file and where to get it."""
    path = folder / dictionaries.FILE
    if not path.is_file():
        raise UserError(
            f"no {path}; put the dict.txt of the model's data there (GPT-2's byte pairs: "
            f"{_WHERE}dict.txt)"
        )
    found = dictionaries.read(path)
    missing = [name for name in (ENCODER, MERGES) if not (folder / name).is_file()]
    if found.is_byte_pairs and missing:
        raise UserError(
            f"{path} numbers byte pairs, whose text is in {' and '.join(missing)}; "
            f"put them into {folder} (GPT-2's: {_WHERE})"
        )
    return found


def write_tokenizer(
    dictionary: Dictionary, beside: Path, target: Path, context: int = 1_000_000_000
) -> None:
    """Write a Hugging Face tokenizer with the ids of `dictionary` into an unpublished folder.

    `beside` holds encoder.json and vocab.bpe if the dictionary is of byte pairs; `context` is the
    longest input.
    """
    tokenizer = _byte_pairs(dictionary, beside) if dictionary.is_byte_pairs else _words(dictionary)
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.save(str(target / "tokenizer.json"))
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIALS, strict=True))
    settings = {"clean_up_tokenization_spaces": False, "model_max_length": context}
    write_json(
        target / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", **names, **settings},
    )


def bytes_of(dictionary: Dictionary, beside: Path) -> NDArray[np.int64]:
    """Count the bytes of text of each symbol, by id, including the blank after it."""
    if dictionary.is_byte_pairs:
        lengths = {str(number): len(token) for token, number in _read_encoder(beside).items()}
        sizes = np.array([lengths.get(symbol, 0) for symbol in dictionary.symbols], np.int64)
        sizes[EOS] = 1  # the line's end
        return sizes
    sizes = np.array([len(symbol.encode()) + 1 for symbol in dictionary.symbols], np.int64)
    sizes[EOS] = 0
    return sizes


def _words(dictionary: Dictionary) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(dictionary.ids, unk_token=SPECIALS[dictionaries.UNK]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_BLANK), "removed")
    return tokenizer


def _byte_pairs(dictionary: Dictionary, beside: Path) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    encoder, merges = _read_encoder(beside), _read_merges(beside / MERGES)
    ids, vocab = dictionary.ids, dict(zip(SPECIALS, range(4), strict=True))
    needed = [*pre_tokenizers.ByteLevel.alphabet(), *(a + b for a, b in merges)]
    missing = [token for token in needed if token not in encoder or str(encoder[token]) not in ids]
    if missing:
        raise UserError(
            f"{beside / dictionaries.FILE}: {len(missing):,} byte pairs of {ENCODER} are not "
            f"there, as {missing[0]!r}; a tokenizer needs all: binarise with --srcdict of "
            f"fairseq's {_WHERE}dict.txt"
        )
    vocab |= {token: ids[str(number)] for token, number in encoder.items() if str(number) in ids}
    used = set(vocab.values())
    vocab |= {symbol: i for i, symbol in enumerate(dictionary.symbols) if i not in used}
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read_encoder(beside: Path) -> dict[str, int]:
    encoder = read_object(beside / ENCODER)
    if not all(isinstance(number, int) and number >= 0 for number in encoder.values()):
        raise UserError(f"{beside / ENCODER}: wanted {{token: number}}, as in {_WHERE}{ENCODER}")
    return encoder


def _read_merges(path: Path) -> list[tuple[str, str]]:
    lfs.refuse(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if not all(len(pair) == 2 for pair in pairs):
        raise UserError(f"{path}: wanted two tokens a line, as in {_WHERE}{MERGES}")
    return [(a, b) for a, b in pairs]


@dataclass(frozen=True)
class Exported:
    """A tokenizer in fairseq's files: `table[i]` is the id in `dictionary` of token i."""

    dictionary: Dictionary
    table: NDArray[np.int64]
    encoder: dict[str, int] = field(default_factory=dict)
    merges: tuple[tuple[str, str], ...] = ()

    @property
    def same_ids(self) -> bool:
        """Whether the dictionary gives every token the id that the tokenizer gives it."""
        return np.array_equal(self.table, np.arange(len(self.dictionary)))

    def write(self, folder: Path) -> None:
        """Write dict.txt, and encoder.json and vocab.bpe where the symbols are byte pairs."""
        dictionaries.write(folder / dictionaries.FILE, self.dictionary)
        if self.encoder:
            write_json(folder / ENCODER, self.encoder)
            lines = ["#version: 0.2", *(f"{a} {b}" for a, b in self.merges), ""]
            (folder / MERGES).write_text("\n".join(lines), encoding="utf-8")


def export(folder: Path) -> Exported:
    """Export the tokenizer in `folder`; `UserError` if it is neither words nor byte pairs.

    A tokenizer made from a dictionary gives that dictionary back, without its counts. For any other
    the end of text becomes ``</s>``, and byte pairs are numbered as GPT-2 numbers its own: bytes
    first, then in the order of merges.
    """
    content = read_object(folder / "tokenizer.json", model=dict)
    model, vocab = content["model"], content["model"].get("vocab")
    if model.get("type") not in ("WordLevel", "BPE") or not isinstance(vocab, dict):
        raise UserError(
            f"{folder}: a tokenizer of the type {model.get('type')}; fairseq takes words or "
            "byte pairs"
        )
    vocab = vocab | {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    encoder: dict[str, int] = {}
    merges: tuple[tuple[str, str], ...] = ()
    if model["type"] == "BPE":
        merges = tuple(
            (a, b) for a, b in (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
        )
        encoder = _numbered(folder, content, vocab, merges)
    names = {i: str(encoder.get(token, token)) for token, i in vocab.items()}
    if [names.get(i) for i in range(4)] == list(SPECIALS):
        return _as_it_is(folder, names, encoder, merges)
    return _moved(_end_of_text(folder, vocab), names, encoder, merges)


def _as_it_is(
    folder: Path,
    names: dict[int, str],
    encoder: dict[str, int],
    merges: tuple[tuple[str, str], ...],
) -> Exported:
    if sorted(names) != list(range(len(names))):
        raise UserError(f"{folder}: ids without a token; fairseq's dictionary cannot skip any")
    dictionary = Dictionary.of([names[i] for i in range(4, len(names))])
    return Exported(dictionary, np.arange(len(dictionary)), encoder, merges)


def _moved(
    eos: int, names: dict[int, str], encoder: dict[str, int], merges: tuple[tuple[str, str], ...]
) -> Exported:
    """Give the end of text fairseq's id, and the other tokens the ids from 4 on.

    Byte pairs keep the order of their numbers.
    """
    rest = [i for i in sorted(names) if i != eos]
    if encoder:
        rest.sort(key=lambda i: int(names[i]))
    table = np.full(max(names) + 1, dictionaries.UNK, np.int64)
    table[rest] = np.arange(4, 4 + len(rest))
    table[eos] = EOS
    return Exported(Dictionary.of([names[i] for i in rest]), table, encoder, merges)


def _numbered(
    folder: Path, content: Json, vocab: dict[str, int], merges: Iterable[tuple[str, str]]
) -> dict[str, int]:
    """Number the tokens as GPT-2's encoder.json does, without special and padding tokens."""
    from tokenizers import pre_tokenizers

    pre, alphabet = content.get("pre_tokenizer") or {}, sorted(pre_tokenizers.ByteLevel.alphabet())
    if content.get("normalizer") or pre.get("type") != "ByteLevel" or pre.get("add_prefix_space"):
        raise UserError(
            f"{folder}: byte pairs that are not cut as GPT-2's are, which fairseq has no form for"
        )
    order = dict.fromkeys([*alphabet, *(a + b for a, b in merges)])
    special = {token["content"] for token in content.get("added_tokens", [])}
    made_up = {token for token in vocab if token.startswith("madeupword")}
    left = sorted(set(vocab) - set(order) - special - made_up, key=lambda token: vocab[token])
    return {token: number for number, token in enumerate([*order, *left])}


def _end_of_text(folder: Path, vocab: dict[str, int]) -> int:
    token = read_object(folder / "tokenizer_config.json").get("eos_token")
    token = token.get("content") if isinstance(token, dict) else token
    if not isinstance(token, str) or token not in vocab:
        raise UserError(
            f"{folder}: its tokenizer has no eos_token, which fairseq's data ends lines with"
        )
    return vocab[token]


def copy_dictionary(source: Path, target: Path, exported: Exported) -> None:
    """Write the fairseq files of a tokenizer; counts are those of an equal `source`/dict.txt."""
    exported.write(target)
    path = source / dictionaries.FILE
    if path.is_file() and dictionaries.read(path).symbols == exported.dictionary.symbols:
        shutil.copyfile(path, target / dictionaries.FILE)
