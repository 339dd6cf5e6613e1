"""Settings of text: where it comes from, how it becomes tokens, and how domains are found in it."""

from dataclasses import dataclass


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
