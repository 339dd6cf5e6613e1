"""Byte-level BPE: BLOOM's words; GPT-2's in the form of `tiktoken`, bytes of tokens in the order of
merges.
"""

from itertools import pairwise

from btm.system.json_files import Json

# How BLOOM's tokenizer.json splits a text into words (BigScience, arXiv 2211.05100): at signs of
# punctuation of several scripts, not at vowel signs or digits.
BLOOM_WORDS = r" ?[^(\s|[.,!?…。，、।۔،])]+"

_PRE_TOKENIZER = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_MUST_BE_UNSET = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)


def mergeable_ranks(content: Json) -> dict[bytes, int] | None:
    """Convert a tokenizer.json to {bytes: id}, or None if tiktoken would not give the same ids.

    tiktoken merges by id and knows no list of merges, so the two must agree: every merge makes a
    new token, and the ids rise along the list.
    """
    model = content["model"]
    if model.get("type") != "BPE" or any(model.get(key) for key in _MUST_BE_UNSET):
        return None
    pre = content.get("pre_tokenizer") or {}
    if content.get("normalizer") or any(pre.get(k) != value for k, value in _PRE_TOKENIZER.items()):
        return None
    added = content.get("added_tokens", [])
    if not all(token["special"] for token in added):
        return None
    vocab, letters = model["vocab"], alphabet()
    made = ["".join(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
    ids = [vocab.get(token, -1) for token in made]
    if -1 in ids or any(later <= earlier for earlier, later in pairwise(ids)):
        return None
    # A token that no merge makes never results from merging, while tiktoken would find it as a
    # whole word.
    if set(vocab) - set(made) - set(letters) - {token["content"] for token in added}:
        return None
    if not all(char in vocab for char in letters):
        return None
    return {bytes(letters[c] for c in token): vocab[token] for token in (*letters, *made)}


def alphabet() -> dict[str, int]:
    """Return {character: byte}: GPT-2 writes each byte as a printable character."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + i): byte for i, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted
