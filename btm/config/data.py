"""Settings of text: where it comes from, how it becomes tokens, and how domains are found in it."""

from dataclasses import dataclass

from btm.config.checks import (
    check_choice,
    check_fraction,
    check_least,
    check_name,
    check_path,
    check_seed,
    require,
)
from btm.errors import UserError

SPECIAL_TOKENS = ("endoftext", "fairseq")


@dataclass
class DataConfig:
    """Where text comes from and how it becomes tokens."""

    name: str = "demo"  # the suite: data/<name>/
    root: str | None = None  # a folder of domains; null: the suite that ships with btm
    domain: str | None = None  # `root` is one domain, a file or a folder, and this is its name
    made_by: str = ""  # the command that builds `root`, named where that folder is missing
    out: str = "data"  # where prepared suites live
    tokenizer: str | None = None  # a Hugging Face tokenizer folder; null: train one on the suite
    vocab_size: int = 8192  # of the tokenizer that is trained
    special_tokens: str = "endoftext"  # of that one: <|endoftext|> | fairseq: <s> <pad> </s> <unk>
    tokenizer_bytes: int = 20_000_000  # how much text, balanced over domains, it is trained on
    text_column: str = "text"  # of JSON lines and of parquet
    valid_fraction: float = 0.05  # of the documents, where the source has no splits of its own
    test_fraction: float = 0.05
    workers: int = 0  # processes that tokenize; 0: one per core


@dataclass
class DiscoverConfig:
    """Domains found by clustering: how many, and how documents are told apart."""

    k: int = 8  # clusters
    out: str | None = None  # the folder that is written; null: discovered/<data.name>
    sample: int = 100_000  # documents that features and centres are fitted on
    features: int = 100  # dimensions of the truncated SVD
    temperature: float = 0.1  # of the router's softmax
    seed: int = 0


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
    check_choice(data.special_tokens, "data.special_tokens", SPECIAL_TOKENS)
    check_least(data, "data", 1, "tokenizer_bytes")
    check_least(data, "data", 0, "workers")
    check_fraction(data, "data", "valid_fraction", "test_fraction")
    require(
        data.vocab_size >= 300,
        "data.vocab_size",
        data.vocab_size,
        "wanted 300 or more (256 are bytes)",
    )
    held_out = data.valid_fraction + data.test_fraction
    require(
        held_out <= 0.9, "data.valid_fraction + data.test_fraction", held_out, "wanted at most 0.9"
    )


def check_discover(discover: DiscoverConfig) -> None:
    """Raise `UserError` naming the first key of `discover` whose value makes no sense."""
    check_path(discover.out, "discover.out")
    check_least(discover, "discover", 1, "k", "sample", "features")
    check_seed(discover.seed, "discover.seed")
    warmth = discover.temperature
    require(warmth > 0, "discover.temperature", warmth, "wanted more than 0")
