"""What belongs to a tokenizer: the files that go with it into every copy of a model.

A forest, its experts, averages and exports get them from the folder that the tokenizer was copied
or imported from. They are files of data by known names: vocabularies, settings, chat templates, and
the settings of processors beside them. Code, pickles and settings that ask for code stay behind.

``tekken.json`` is left out although mistral-common writes it: where that library is installed,
transformers would build the tokenizer from it, and not from the tokenizer.json that text was packed
with.
"""

from collections.abc import Iterator
from pathlib import Path

from btm.errors import UserError
from btm.system.json_files import parse_json
from btm.system.outside import Folder

TEMPLATES = "additional_chat_templates"  # a folder of templates beside chat_template.jinja
# Files that decide a text's ids, where there is no tokenizer.json.
DECISIVE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
PIECES = "*.model"  # sentencepiece's, and tiktoken's of Llama 3
# Names and patterns of names; `transformers` reads or writes each of them for some tokenizer.
_VOCABULARIES = (
    *DECISIVE,
    PIECES,
    "tokenizer.model.v*",
    "*.spm",
    "*.tiktoken",
    "vocab-*.json",
    "target_vocab.json",
    "entity_vocab.json",
    "*.vocab",
    "encoder.json",
    "vocab.bpe",
    "bpe.codes",
    "unigram.json",
    "dict.txt",
    "prophetnet.tokenizer",
    "normalizer.json",
    "emoji.json",
    "byte_maps.json",
    "word_shape.json",
    "word_pronunciation.json",
)
_TEMPLATES = ("*.jinja", f"{TEMPLATES}/*.jinja", "chat_template.json")
_PROCESSORS = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
_SMALL, _LARGE = 4 << 20, 512 << 20  # bytes: of settings or a template, of a vocabulary
_MOST = 100  # files of one pattern
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # how a file of torch.save and a pickle begin


def names(folder: Folder) -> list[str]:
    """List the files of a tokenizer in `folder` as relative paths, each once.

    `UserError` if there are more than a tokenizer can have.
    """
    found: dict[str, None] = {}
    for pattern in (*_VOCABULARIES, *_TEMPLATES, *_PROCESSORS):
        matching = folder.matching(pattern)
        if len(matching) > _MOST:
            raise UserError(
                f"{folder.path}: {len(matching):,} files are called {pattern}; "
                f"wanted the folder of one tokenizer, which has {_MOST} at most"
            )
        found |= dict.fromkeys(matching)
    return list(found)


def contents(folder: Folder) -> Iterator[tuple[str, bytes]]:
    """Yield (relative path, content) of every file of a tokenizer in `folder` that is data.

    Pickles, and settings of processors that ask for code of their own, are passed over. Raises
    `UserError` for a file that is no regular one, too large, or a link that leads out of `folder`.
    """
    for name in names(folder):
        small = "jinja" in name or name in _PROCESSORS
        content = folder.read(name, _SMALL if small else _LARGE)
        is_code = content.startswith((_ZIP, _PICKLE)) or (
            name in _PROCESSORS and _asks_for_code(content)
        )
        if not is_code:
            yield name, content


def copy(source: Path, target: Path) -> None:
    """Copy the tokenizer in `source`, with all that belongs to it, into the unpublished folder
    `target`; see `contents`.
    """
    for name, content in contents(Folder(source)):
        put(target, name, content)


def put(target: Path, name: str, content: bytes) -> None:
    """Write one of the `contents` into the unpublished folder `target`."""
    file = target / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)


def _asks_for_code(content: bytes) -> bool:
    """Tell whether the settings of a processor name code; settings that are no JSON may."""
    try:
        values = parse_json(content)
    except ValueError:
        return True
    return not isinstance(values, dict) or "auto_map" in values
