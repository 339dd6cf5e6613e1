"""The tokenizer of a GGUF: byte-level BPE, as llama.cpp splits and merges it.

llama.cpp knows ways of splitting a text into words by name. A tokenizer whose way is not one of
these would give other tokens there, so it is refused.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from btm.data.bos import own_bos
from btm.data.bytelevel import BLOOM_WORDS
from btm.data.tokenizer import load_tokenizer
from btm.errors import UserError
from btm.system.json_files import Json, read_object

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's types of tokens

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {_LLAMA3: "llama-bpe", _LLAMA3.replace("{1,3}", ""): "qwen2", BLOOM_WORDS: "bloom"}


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, by the methods of `gguf.GGUFWriter` (without "add_") that write it."""

    fields: dict[str, Any]

    @property
    def size(self) -> int:
        """The number of tokens."""
        return len(self.fields["token_list"])


def vocabulary_of(folder: Path, rows: int) -> Vocabulary:
    """Read the tokenizer of a model folder whose embedding has `rows` rows.

    Rows beyond the last token become tokens that are never used. Raises `UserError` for a
    tokenizer that llama.cpp would read otherwise.
    """
    file = folder / "tokenizer.json"
    content = read_object(file, model=dict)
    model, pre = content["model"], _pre_tokenizer(file, content)
    _require_merges(file, model, pre)
    _require_plain_tokens(file, content)
    tokens, types = _tokens(content, rows)
    tokenizer = load_tokenizer(folder)
    fields: dict[str, Any] = {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": pre,
        "token_list": tokens,
        "token_types": types,
        "token_merges": [m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
        "eos_token_id": int(tokenizer.eos_token_id),
        "bos_token_id": int(
            tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        ),
        "add_bos_token": own_bos(tokenizer) is not None,
        "add_eos_token": False,
    }
    if isinstance(tokenizer.chat_template, str):
        fields["chat_template"] = tokenizer.chat_template
    return Vocabulary(fields)


def _tokens(content: Json, rows: int) -> tuple[list[str], list[int]]:
    """List the tokens by id, and their types."""
    by_id = {number: (token, NORMAL) for token, number in content["model"]["vocab"].items()}
    for added in content.get("added_tokens") or []:
        by_id[added["id"]] = (added["content"], CONTROL if added["special"] else USER_DEFINED)
    if max(by_id) >= rows:
        raise UserError(
            f"format=gguf: the tokenizer has a token {max(by_id)}, and the model {rows} embeddings"
        )
    every = [by_id.get(number, (f"[PAD{number}]", UNUSED)) for number in range(rows)]
    return [token for token, _ in every], [kind for _, kind in every]


def _require_merges(file: Path, model: Json, pre: str) -> None:
    """Raise `UserError` unless a tokenizer takes words that are tokens whole where llama.cpp does.

    There the way of splitting decides: that of Llama 3 takes them whole, the others merge.
    """
    takes_whole = bool(model.get("ignore_merges"))
    if takes_whole != (pre == "llama-bpe"):
        raise UserError(
            f"format=gguf: {file} has ignore_merges={str(takes_whole).lower()}, and llama.cpp does "
            f"otherwise for tokenizers that split words as {pre} does"
        )


def _require_plain_tokens(file: Path, content: Json) -> None:
    """Raise `UserError` for an added token that is found in a text in a way of its own.

    Special tokens are none of that: in a text llama.cpp takes their names for text or as they are,
    as it is asked to.
    """
    ways = ("lstrip", "rstrip", "single_word")
    for token in content.get("added_tokens") or []:
        found = [way for way in ways if token.get(way) and not token["special"]]
        if found:
            raise UserError(
                f"format=gguf: {file}: the added token {token['content']!r} has "
                f"{', '.join(found)}, which llama.cpp does not know"
            )


def _pre_tokenizer(file: Path, content: Json) -> str:
    """Name the way a tokenizer splits a text, as llama.cpp does."""
    model = content["model"]
    if model.get("type") != "BPE" or "merges" not in model:
        raise UserError(
            f"format=gguf: {file} is a {model.get('type')} tokenizer: only byte-level BPE so far"
        )
    normalizer = (content.get("normalizer") or {}).get("type", "NFC")
    affixes = ("continuing_subword_prefix", "end_of_word_suffix")
    unusual = [key for key in ("dropout", "byte_fallback", *affixes) if model.get(key)]
    if normalizer != "NFC" or unusual:
        said = ", ".join([*unusual, *([] if normalizer == "NFC" else [f"normalizer {normalizer}"])])
        raise UserError(f"format=gguf: {file} has {said}, which llama.cpp does not know")
    pre = content.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    last = steps[-1]
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        if len(steps) == 1 and last.get("use_regex", True):
            return "gpt-2"
        if len(steps) == 2 and not last.get("use_regex", True):
            pattern = (steps[0].get("pattern") or {}).get("Regex")
            if pattern in _SPLITS and steps[0].get("behavior") == "Isolated":
                return _SPLITS[pattern]
    raise UserError(
        f"format=gguf: {file} splits words in a way that llama.cpp has no name for here: "
        f"{json.dumps(pre)[:200]}; wanted that of GPT-2, Llama 3, Qwen 2 or BLOOM"
    )
