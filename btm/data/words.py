"""Words of a command as errors propose them: with the quotes that they need."""

import re
from collections.abc import Mapping


def ignoring(*names: str) -> str:
    """Write the word that leaves out files or folders."""
    return _for_a_shell(f"data.ignore=[{','.join(map(_quoted, names))}]")


def naming(names: Mapping[str, str]) -> str:
    """Write the word that gives files or folders the names of domains."""
    pairs = ", ".join(f"{_quoted(old)}: {new}" for old, new in names.items())
    return _for_a_shell(f"data.names={{{pairs}}}")


def _quoted(name: str) -> str:
    """Quote an element of a list or a map if it needs that."""
    if re.fullmatch(r"[\w./+-]+", name):
        return name
    escaped = re.sub(r"(['\\])", r"\\\1", name)
    return f"'{escaped}'"


def _for_a_shell(word: str) -> str:
    # Brackets and commas alone are no trouble to a shell where no file is called so.
    if not re.search(r"[^\w./+,:=\[\]-]", word):
        return word
    return '"' + re.sub(r'(["$`\\])', r"\\\1", word) + '"'
