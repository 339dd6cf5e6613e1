"""The tokenizer of a suite: trained on its text, or copied from the user's.

Every domain of a suite, and so every expert of a forest, shares one tokenizer; `tokenizer_sha256`
identifies it everywhere in btm.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from btm.data import bos as beginning
from btm.data.bos import AUTO, BEGINS, POLICY
from btm.data.bytelevel import BLOOM_WORDS
from btm.data.slices import short_words
from btm.errors import UserError, first_line
from btm.fairseq import dictionary
from btm.models.tokenizer_files import DECISIVE, PIECES
from btm.models.tokenizer_files import copy as copy_files
from btm.system import lfs
from btm.system.durable import publish_folder, write_json
from btm.system.json_files import Json, parse_json, read_regular

Say = Callable[[str], None]
EOS = "<|endoftext|>"
SPECIALS = ("bos_token", "pad_token", "eos_token", "unk_token")
FAIRSEQ_SPECIALS = dict(zip(SPECIALS, dictionary.SPECIALS, strict=True))  # in the order of ids
_EVERY = 5.0  # seconds between two lines about the training of a tokenizer
_LONG_WORDS = 4_000_000  # characters of words beyond slices.WORD that it is trained on
_MAX_BYTES = 512 << 20  # of a tokenizer file; the largest in use have 30 MB
ORIGIN = "origin.json"  # beside the tokenizer's files: its source, its size, its EOS and BOS


def train_tokenizer(
    texts: Iterable[str],
    folder: Path,
    vocab_size: int,
    special_tokens: str = "endoftext",
    policy: str = AUTO,
    say: Say = lambda line: None,
    sampling: float | None = None,
    words: str = "gpt2",
) -> None:
    """Train a byte-level BPE on `texts` and publish it at `folder` as a Hugging Face tokenizer.

    It splits `words` as GPT-2 or BLOOM does (data.words) and normalizes nothing, so it restores any
    text exactly. The vocabulary comes out smaller than `vocab_size` where the text has too little
    to merge. The first ids are the `special_tokens`: ``<|endoftext|>``, or fairseq's
    ``<s> <pad> </s> <unk>``. It puts no BOS before a text unless the `policy` is always. Words that
    no language has, as a sequence of DNA, are cut (btm/data/slices.py). `say` is told every few
    seconds how far it is. `sampling` is recorded: the power by which the texts were chosen
    (data.sampling).
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    named = dict.fromkeys(SPECIALS, EOS) if special_tokens == "endoftext" else FAIRSEQ_SPECIALS
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if words == "bloom":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(BLOOM_WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(dict.fromkeys(named.values())),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with _Told(say) as told:
        tokenizer.train_from_iterator(_parts(told.reading(texts)), trainer)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
    }
    asked: Json = {"vocab_size": vocab_size, "special_tokens": special_tokens}
    asked |= {} if sampling is None else {"sampling": sampling}
    asked |= {} if words == "gpt2" else {"words": words}
    origin = {
        "trained": asked,
        "eos": tokenizer.token_to_id(named["eos_token"]),
        "vocab_size": tokenizer.get_vocab_size(),
    }
    with publish_folder(folder) as temporary:
        tokenizer.save(str(temporary / "tokenizer.json"))
        write_json(temporary / "tokenizer_config.json", settings)
        if policy != AUTO:
            loaded = load_tokenizer(temporary)
            bos = beginning.bos_of(loaded, policy, "the tokenizer that is trained")
            settings |= beginning.records(bos, loaded.eos_token_id, policy)
            origin |= {} if bos is None else {"bos": bos}
            write_json(temporary / "tokenizer_config.json", settings)
            if bos is not None:
                _impose_bos(temporary, loaded, bos, settings, "the tokenizer that is trained")
        write_json(temporary / ORIGIN, origin)


def _parts(texts: Iterable[str]) -> Iterator[str]:
    """Yield texts in parts without long words, and so many pieces of those as tell what they are.

    A piece is seldom like another, and the trainer keeps 32 bytes a character of what differs.
    """
    left = _LONG_WORDS
    for text in texts:
        for part, long in short_words(text):
            if not long or left > 0:
                left -= len(part) * long
                yield part


class _Told:
    """Tells every few seconds how far the training of a tokenizer is."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._begun = time.monotonic()
        self._documents = self._chars = 0
        self._merging = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> "_Told":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def reading(self, texts: Iterable[str]) -> Iterator[str]:
        """Pass documents on, and count them."""
        for text in texts:
            self._documents += 1
            self._chars += len(text)
            yield text
        self._merging = True

    def _tell(self) -> None:
        # A thread, since the merges are one call.
        while not self._stop.wait(_EVERY):
            read = f"{self._documents:,} documents, {self._chars:,} characters"
            spent = f"{time.monotonic() - self._begun:.0f} s so far"
            doing = "merging pairs of" if self._merging else "reading:"
            self._say(f"tokenizer: {doing} {read} ({spent})")


def load_tokenizer(folder: Path) -> Any:
    """Load a Hugging Face tokenizer without running its code; `UserError` if it is unusable."""
    if not folder.is_dir():
        raise UserError(f"data.tokenizer={folder}: no such folder; wanted a Hugging Face tokenizer")
    for name, remote in (("tokenizer_config.json", None), ("config.json", "AutoTokenizer")):
        auto_map = _read_json(folder / name).get("auto_map")
        if auto_map and (remote is None or remote in auto_map):
            raise UserError(
                f"data.tokenizer={folder}: {name} asks for code of its own (auto_map); "
                "btm runs none"
            )
    _require_files(folder)
    for path in tokenizer_files(folder):
        lfs.refuse(path)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # each kind of tokenizer fails in its own way
        raise UserError(f"data.tokenizer={folder}: {_why_not(error, folder)}") from None
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UserError(f"data.tokenizer={folder}: has no fast form; wanted a tokenizer.json")
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"data.tokenizer={folder}: has no eos_token; set one in tokenizer_config.json"
        )
    return tokenizer


def _require_files(folder: Path) -> None:
    """Raise `UserError` unless the files that some tokenizer is built from lie in `folder`.

    That is tokenizer.json, sentencepiece's model, or a vocabulary (with merges, where there are).
    """
    built_from = ("tokenizer.json", "vocab.json", "vocab.txt")
    if any((folder / name).exists() for name in built_from) or any(folder.glob("*.model")):
        return
    raise UserError(f"data.tokenizer={folder}: {_no_tokenizer(folder)}")


def _no_tokenizer(folder: Path) -> str:
    """Say what a folder without a tokenizer holds, what one is built from, and how to add it."""
    here = ", ".join(path.name for path in tokenizer_files(folder)) or "no file of a tokenizer"
    return (
        f"holds {here}; looked for tokenizer.json, vocab.json with merges.txt, vocab.txt and "
        "*.model: copy the tokenizer of this model into the folder "
        '(AutoTokenizer.from_pretrained("ORG/NAME").save_pretrained("DIR"))'
    )


def _why_not(error: Exception, folder: Path) -> str:
    """Say in one whole sentence why transformers could not load the tokenizer in a folder."""
    said = first_line(error)
    if "instantiate the backend tokenizer" in said:  # its reasons stand in the lines after
        return f"no tokenizer can be built of its files: it {_no_tokenizer(folder)}"
    if isinstance(error, KeyError):
        said = f"a file of it has no {said}"
    here = ", ".join(path.name for path in tokenizer_files(folder))
    return f"does not load: {said} (it has {here})"


def size_of(tokenizer: Any) -> int:
    """Count the ids of a tokenizer: up to the largest, where some between are no tokens."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))


def begins_with_bos(folder: Path) -> bool:
    """Tell whether documents begin with BOS under the copied tokenizer in `folder`."""
    return _read_json(folder / "tokenizer_config.json").get(BEGINS) is True


def recorded_policy(folder: Path) -> str:
    """Read the policy of BOS that overruled the copied tokenizer in `folder`, or else `auto`."""
    return str(_read_json(folder / "tokenizer_config.json").get(POLICY, AUTO))


def bos_of_copy(folder: Path, tokenizer: Any = None) -> int | None:
    """Find the token that texts begin with under the copied tokenizer in `folder`.

    `tokenizer` is the same, if it is loaded already. One that was copied by a btm that knew no BOS
    has none, whatever it does by itself.
    """
    tokenizer = tokenizer or load_tokenizer(folder)
    found = beginning.own_bos(tokenizer)
    return found if begins_with_bos(folder) or found == tokenizer.eos_token_id else None


def other_beginning(found: str, wanted: str) -> str:
    """Say how texts begin, where two fingerprints are of one tokenizer with and without BOS.

    Empty where the tokenizers are the same, or differ in more.
    """
    if found == _with_bos(wanted):
        return "the same tokenizer, but with a BOS before texts, which begin with none in"
    if wanted == _with_bos(found):
        return "the same tokenizer, but with no BOS before texts, which begin with one in"
    return ""


def copy_tokenizer(source: Path, folder: Path, policy: str = AUTO) -> None:
    """Publish a copy of the tokenizer in `source` at `folder`, byte for byte where possible.

    It records whether texts begin with a BOS under the `policy`, and does so itself then.
    """
    tokenizer = load_tokenizer(source)
    bos = beginning.bos_of(tokenizer, policy, str(source))
    settings = _read_json(source / "tokenizer_config.json")
    # A model folder may name the class, and so the end of text, in config.json alone.
    settings.setdefault("tokenizer_class", type(tokenizer).__name__)
    settings.setdefault("eos_token", tokenizer.eos_token)
    if bos is not None and bos == tokenizer.bos_token_id:
        settings["bos_token"] = tokenizer.bos_token
    settings = {key: value for key, value in settings.items() if key not in (BEGINS, POLICY)}
    settings |= beginning.records(bos, tokenizer.eos_token_id, policy)
    origin = {
        "copied": {
            "name": source.resolve().name,
            "sha256": tokenizer_sha256(source, BEGINS in settings),
        },
        "eos": tokenizer.eos_token_id,
        "vocab_size": size_of(tokenizer),
    } | ({} if bos is None else {"bos": bos})
    with publish_folder(folder) as temporary:
        copy_files(source, temporary)
        # Some classes of transformers build another tokenizer than the file's. Text must be packed
        # with the one that later loads, so that one is stored.
        loaded = tokenizer.backend_tokenizer.to_str()
        if tokenizer_sha256(temporary, False) != _fingerprint(json.loads(loaded)):
            (temporary / "tokenizer.json").write_text(loaded, encoding="utf-8")
        write_json(temporary / "tokenizer_config.json", settings)
        write_json(temporary / ORIGIN, origin)
        if beginning.own_beginning(tokenizer) != ([] if bos is None else [bos]):
            _impose_bos(temporary, tokenizer, bos, settings, str(source))


def unlearned(special_tokens: str) -> Any:
    """Make a tokenizer without a vocabulary that has the special tokens of one that is trained.

    It writes chats by a template as that one will.
    """
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    named = dict.fromkeys(SPECIALS, EOS) if special_tokens == "endoftext" else FAIRSEQ_SPECIALS
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **named)


def _impose_bos(folder: Path, tokenizer: Any, bos: int | None, settings: Json, what: str) -> None:
    """Make the unpublished tokenizer in `folder` begin texts with `bos`, or with nothing (None)."""
    for added in beginning.impose(folder, tokenizer, bos):
        settings = settings | added
        write_json(folder / "tokenizer_config.json", settings)
        loaded = load_tokenizer(folder)
        ids = _fingerprint(json.loads(loaded.backend_tokenizer.to_str()))
        begins = beginning.own_beginning(loaded)
        if begins == ([] if bos is None else [bos]) and ids == _ids_sha256(folder):
            return
    raise UserError(
        f"data.bos={settings[POLICY]}: the post-processor of {what} cannot be changed so: leave "
        f"data.bos={AUTO}, or have the tokenizer do it itself (post_processor in tokenizer.json)"
    )


def tokenizer_files(folder: Path) -> list[Path]:
    """List the files of `folder` that its tokenizer is built from."""
    names = [folder / name for name in DECISIVE if (folder / name).is_file()]
    return names + sorted(path for path in folder.glob(PIECES) if path.is_file())


def tokenizer_sha256(folder: Path, begins: bool | None = None) -> str:
    """Fingerprint a tokenizer: hash everything that decides a text's ids.

    That is in tokenizer.json, so a copy written by `save_pretrained` counts as the same tokenizer,
    although its layout is new and it adds a post-processor; and whether documents begin with BOS:
    `begins`, or what a copy records (None). Without a tokenizer.json all files count, byte for
    byte.
    """
    if begins is None:
        begins = begins_with_bos(folder)
    found = _ids_sha256(folder)
    return _with_bos(found) if begins else found


def _with_bos(sha256: str) -> str:
    """Fingerprint the tokenizer of fingerprint `sha256` where it puts a BOS before documents."""
    return hashlib.sha256(f"{sha256} bos".encode()).hexdigest()


def _ids_sha256(folder: Path) -> str:
    """Hash what decides the ids of a text, apart from BOS."""
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            return _fingerprint(_read_json(path))
        except (TypeError, AttributeError, ValueError):
            raise UserError(f"{path}: not the tokenizer.json of a Hugging Face tokenizer") from None
    files = tokenizer_files(folder)
    if not files:
        raise UserError(f"{folder}: {_no_tokenizer(folder)}")
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def read_origin(folder: Path) -> Json:
    """Read {"trained" or "copied", "eos", "vocab_size"} of a suite's tokenizer; {} if none.

    Where texts begin with a BOS there is a "bos", too.
    """
    path = folder / ORIGIN
    origin = _read_json(path)
    whole = isinstance(origin.get("eos"), int) and isinstance(origin.get("vocab_size"), int)
    if path.exists() and not (whole and (folder / "tokenizer.json").is_file()):
        raise UserError(
            f"{folder}: a damaged tokenizer; remove {folder.parent} and run btm prepare again"
        )
    return origin


def _fingerprint(content: Json) -> str:
    """Hash what decides ids, in one form: null, "" and absent are the same."""
    model = {key: value for key, value in content.get("model", {}).items() if value}
    if "merges" in model:  # older files have "a b", newer ones ["a", "b"]
        model["merges"] = [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"]]
    decisive = {key: content.get(key) for key in ("added_tokens", "normalizer", "pre_tokenizer")}
    return hashlib.sha256(json.dumps([model, decisive], sort_keys=True).encode()).hexdigest()


def _read_json(path: Path) -> Json:
    """Read the JSON object in `path`; {} if there is no such file."""
    try:
        value = parse_json(read_regular(path, _MAX_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: wanted a JSON object")
    return value
