"""The reader of a suite's prompted data: whose special tokens and chat template it has."""

from pathlib import Path

from btm.config.data import DataConfig
from btm.data.prompted.examples import Reader
from btm.data.prompted.template import DEFAULT, read_template
from btm.data.tokenizer import load_tokenizer, read_origin, unlearned
from btm.system.durable import publish_file

TEMPLATE = "chat_template.jinja"


def reader(config: DataConfig, folder: Path) -> Reader:
    """Make the reader for the suite whose tokenizer is, or will be, in `folder`.

    The template is `data.chat_template`, or that of the tokenizer, or btm's own.
    """
    if read_origin(folder):
        tokenizer = load_tokenizer(folder)
    elif config.tokenizer:
        tokenizer = load_tokenizer(Path(config.tokenizer))
    else:
        tokenizer = unlearned(config.special_tokens)
    if config.chat_template:
        tokenizer.chat_template = read_template(Path(config.chat_template))
    elif not tokenizer.chat_template:
        tokenizer.chat_template = read_template(DEFAULT)
    return Reader(tokenizer)


def keep_template(found: Reader, folder: Path) -> None:
    """Leave the template beside the suite's tokenizer, so that experts are asked as trained."""
    template = found.tokenizer.chat_template
    if isinstance(template, str) and load_tokenizer(folder).chat_template != template:
        with publish_file(folder / TEMPLATE) as handle:
            handle.write(template.encode())
