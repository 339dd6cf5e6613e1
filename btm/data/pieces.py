"""The bytes of each token of a tokenizer, so that ids can be read as text one by one."""

import re
from pathlib import Path
from typing import Any

from btm.data.bytelevel import alphabet
from btm.errors import UserError
from btm.system.json_files import parse_json

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BLANK = "\u2581"  # how SentencePiece writes a blank


def token_bytes(folder: Path) -> list[bytes]:
    """List the UTF-8 bytes of every token of a tokenizer, by id; special tokens have none.

    A token may be a part of a character. Byte-level BPE, and SentencePiece with or without its
    fallback to bytes; `UserError` for other kinds, whose tokens have no bytes of their own.
    """
    path = folder / "tokenizer.json"
    try:
        content = parse_json(path.read_bytes())
        vocab = content["model"]["vocab"]
        parts = ("decoder", "pre_tokenizer", "normalizer")
        kinds = _kinds([content.get(part) for part in parts])
        ids = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
        added = {token["id"]: token for token in content.get("added_tokens") or []}
        pieces = [b""] * (1 + max([*ids.values(), *added], default=-1))
        read = _reader(kinds, path)
        for piece, i in ids.items():
            pieces[i] = read(piece)
        for i, token in added.items():
            pieces[i] = b"" if token["special"] else token["content"].encode()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not the tokenizer.json of a Hugging Face tokenizer: {error!r}"
        ) from None
    return pieces


def _reader(kinds: set[str], path: Path) -> Any:
    """Choose the function that turns a token of the vocabulary into its bytes."""
    if "ByteLevel" in kinds:
        table = alphabet()
        # An added token, which no merge has made, may hold other characters.
        return lambda piece: (
            bytes(table[c] for c in piece) if set(piece) <= table.keys() else piece.encode()
        )
    if kinds & {"Metaspace", "ByteFallback"}:
        return _of_sentencepiece
    found = ", ".join(sorted(kinds)) or "none"
    raise UserError(
        f"{path}: tokens cannot be read one by one: wanted byte-level BPE or SentencePiece, "
        f"found {found}"
    )


def _of_sentencepiece(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(_BLANK, " ").encode()


def _kinds(nodes: list[Any]) -> set[str]:
    """Collect the types of all components of a tokenizer.json, at any depth."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, dict):
            found.add(str(node.get("type")))
            found |= _kinds([value for value in node.values() if isinstance(value, list)])
        elif isinstance(node, list):
            found |= _kinds(node)
    return found
