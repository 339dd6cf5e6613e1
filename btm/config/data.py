"""Settings of text: where it comes from, how it becomes tokens, and how domains are found in it."""

from dataclasses import dataclass

from btm.config.checks import (
    check_choice,
    check_fraction,
    check_least,
    check_name,
    check_path,
    check_power,
    check_seed,
    require,
)
from btm.config.keys import key
from btm.errors import UserError

NEAR_DUPLICATES = ("report", "drop", "off")
SPECIAL_TOKENS = ("endoftext", "fairseq")
UNREAD = ("report", "refuse")
SPLITTING = ("named", "pool")
ON_ERROR = ("refuse", "skip")
WORDS = ("gpt2", "bloom")
BOS = ("auto", "always", "never")
FORMATS = ("text", "prompted")
LOSS_ON = ("completion", "all")
TRUNCATE = ("left", "right")


@dataclass
class DataConfig:
    """Where text comes from and how it becomes tokens."""

    name: str = key("demo", "name of the suite; its prepared text is in <data.out>/<data.name>")
    root: str | None = key(
        None, "folder with one folder or file for each domain; null: the suite that ships with btm"
    )
    domain: str | None = key(
        None,
        "name of the only domain, if data.root is the file or the folder of one; null: "
        "data.root holds several",
    )
    made_by: str = key(
        "", "command that builds data.root; an error names it if that folder is missing"
    )
    ignore: list[str] = key(
        [],
        "files and folders of data.root that are left out: names, ends of paths (law/notes.txt), "
        "or patterns of them (*.bak)",
    )
    names: dict[str, str] = key(
        {}, "domains of files and folders whose names are none: {PubMed Central: pubmed}"
    )
    unread: str = key(
        "report",
        "files that are not read: report names them, refuse ends the command",
        UNREAD,
    )
    splits: str = key(
        "named",
        "files and folders named train, valid, validation, val, dev or test: named takes them as "
        "those splits, pool splits all files of a domain anew",
        SPLITTING,
    )
    text_endings: list[str] = key(
        [],
        "further endings of files that are read as plain text: [.md,.tex]; none: files without one",
    )
    out: str = key("data", "folder of prepared suites")
    tokenizer: str | None = key(
        None, "folder of a Hugging Face tokenizer; null: train one on the suite"
    )
    vocab_size: int = key(8192, "size of the tokenizer that is trained, in tokens")
    special_tokens: str = key(
        "endoftext",
        "special tokens of the tokenizer that is trained: <|endoftext|> alone, or fairseq's "
        "<s> <pad> </s> <unk>",
        SPECIAL_TOKENS,
    )
    words: str = key(
        "gpt2",
        "how the tokenizer that is trained splits a text into words, beyond which no token goes: "
        "as GPT-2 does, or as BLOOM (docs/languages.md)",
        WORDS,
    )
    bos: str = key(
        "auto",
        "whether texts begin with the tokenizer's BOS: each document, window and prompt; auto: if "
        "the tokenizer puts one before a text itself",
        BOS,
    )
    tokenizer_bytes: int = key(
        20_000_000, "text that the tokenizer is trained on, of all domains together, in bytes"
    )
    sampling: float | None = key(
        None,
        "power α of the shares p ∝ n^α that domains of n bytes have of the tokenizer's text "
        "(docs/languages.md); null: equal shares",
    )
    format: str = key(
        "text",
        "what rows are: text; prompted: prompts with completions, or messages, in JSON lines "
        "(docs/instructions.md)",
        FORMATS,
    )
    loss_on: str = key(
        "completion",
        "tokens of prompted data that are predicted: completion, the answers; all, prompts too",
        LOSS_ON,
    )
    chat_template: str | None = key(
        None,
        "file of the chat template that writes messages; null: that of the tokenizer, or else the "
        "one that ships with btm",
    )
    max_tokens: int | None = key(
        None, "longest example of prompted data, in tokens; null: trainer.seq_len"
    )
    truncate: str = key(
        "left",
        "the end at which a longer example loses tokens: left keeps the answer, right the "
        "beginning; one that has no prompt or no answer left is left out and counted",
        TRUNCATE,
    )
    text_column: str = key(
        "text",
        "field of JSON lines and column of parquet that holds the text; fields of fields by dots, "
        "as in doc.text",
    )
    on_error: str = key(
        "refuse",
        "rows without usable text: refuse names the first one and ends, skip leaves them out and "
        "counts them",
        ON_ERROR,
    )
    row_bytes: int = key(
        67_108_864, "longest line of JSON or value of parquet that is no bad row, in bytes"
    )
    valid_fraction: float = key(
        0.05,
        "fraction of the documents that become the valid split, where the source has no splits",
    )
    test_fraction: float = key(
        0.05, "fraction of the documents that become the test split, where the source has no splits"
    )
    near_duplicates: str = key(
        "report",
        "documents that are trained on and nearly equal to one that is held out: report counts "
        "them, drop leaves them out",
        NEAR_DUPLICATES,
    )
    workers: int = key(0, "processes that tokenize; 0: one per core")


@dataclass
class DiscoverConfig:
    """Domains found by clustering: how many, and how documents are told apart."""

    k: int = key(8, "number of clusters, each a domain")
    out: str | None = key(None, "folder that is written; null: discovered/<data.name>")
    sample: int = key(100_000, "documents that the features and the centres are fitted on")
    features: int = key(100, "dimensions of the truncated SVD of the documents' features")
    temperature: float = key(0.1, "temperature of the router's softmax over clusters")
    seed: int = key(0, "seed of the sample and the clustering")


def check_data(data: DataConfig) -> None:
    """Raise `UserError` naming the first key of the section `data` whose value makes no sense."""
    if data.root == "":
        raise UserError(
            "data.root is missing: data=folder needs data.root=DIR, the folder that holds your "
            "domains"
        )
    check_path(data.out, "data.out")
    check_path(data.tokenizer, "data.tokenizer")
    check_name(data.name, "data.name")
    if data.domain is not None:
        check_name(data.domain, "data.domain")
    _check_folder(data)
    check_choice(data.near_duplicates, "data.near_duplicates", NEAR_DUPLICATES)
    check_choice(data.bos, "data.bos", BOS)
    check_choice(data.special_tokens, "data.special_tokens", SPECIAL_TOKENS)
    check_choice(data.on_error, "data.on_error", ON_ERROR)
    require(data.text_column != "", "data.text_column", "''", "wanted the name of a field")
    check_least(data, "data", 1, "tokenizer_bytes", "row_bytes")
    check_least(data, "data", 0, "workers")
    check_fraction(data, "data", "valid_fraction", "test_fraction")
    require(
        data.vocab_size >= 300,
        "data.vocab_size",
        data.vocab_size,
        "wanted 300 or more (256 are bytes)",
    )
    check_choice(data.words, "data.words", WORDS)
    check_power(data.sampling, "data.sampling")
    for word, usual in (("sampling", None), ("words", "gpt2")):
        value = getattr(data, word)
        why = "has no effect beside data.tokenizer, which is not trained"
        require(value == usual or data.tokenizer is None, f"data.{word}", value, why)
    _check_prompted(data)
    held_out = data.valid_fraction + data.test_fraction
    require(
        held_out <= 0.9, "data.valid_fraction + data.test_fraction", held_out, "wanted at most 0.9"
    )


def _check_prompted(data: DataConfig) -> None:
    """Check the keys of prompted data, which have no effect on texts."""
    check_choice(data.format, "data.format", FORMATS)
    check_choice(data.loss_on, "data.loss_on", LOSS_ON)
    check_choice(data.truncate, "data.truncate", TRUNCATE)
    check_path(data.chat_template, "data.chat_template")
    if data.max_tokens is not None:
        check_least(data, "data", 2, "max_tokens")
    usual = DataConfig()
    idle = ["text_column", "text_endings"]
    if data.format == "text":
        idle = ["loss_on", "chat_template", "max_tokens", "truncate"]
    for word in idle:
        value = getattr(data, word)
        why = f"has no effect with data.format={data.format}"
        require(value == getattr(usual, word), f"data.{word}", value, why)


def _check_folder(data: DataConfig) -> None:
    """Check the keys that say which files of data.root are read, and as what."""
    check_choice(data.unread, "data.unread", UNREAD)
    check_choice(data.splits, "data.splits", SPLITTING)
    for old, new in data.names.items():
        check_name(new, f"data.names.{old}")
    require(
        not (data.names and data.domain),
        "data.names",
        data.names,
        "has no effect beside data.domain, which names the only domain",
    )
    require("" not in data.ignore, "data.ignore", data.ignore, "wanted names, or patterns of them")
    for ending in data.text_endings:
        is_ending = ending.startswith(".") and len(ending) > 1 and "." not in ending[1:]
        wanted = "wanted endings with a dot, as .md, or none for files without one"
        require(is_ending or ending == "none", "data.text_endings", ending, wanted)


def check_discover(discover: DiscoverConfig) -> None:
    """Raise `UserError` naming the first key of `discover` whose value makes no sense."""
    check_path(discover.out, "discover.out")
    check_least(discover, "discover", 1, "k", "sample", "features")
    check_seed(discover.seed, "discover.seed")
    warmth = discover.temperature
    require(warmth > 0, "discover.temperature", warmth, "wanted more than 0")
