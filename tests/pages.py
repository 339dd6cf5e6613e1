"""The commands of README and docs, as a reader finds them: blocks that are indented by four."""

import re
from dataclasses import dataclass

from folders import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_PROGRAMS = r"(?:btm|scripts/\S+|python|source|\.venv/\S+)"


@dataclass(frozen=True)
class Section:
    """A section of a page and its commands, which a reader gives one after another."""

    page: str
    heading: str
    commands: tuple[str, ...]

    def __str__(self):
        return f"{self.page}: {self.heading}"


def sections():
    """List the sections of README and docs that have commands."""
    found = []
    for page in PAGES:
        for part in re.split(r"^#+ ", page.read_text(), flags=re.MULTILINE)[1:]:
            heading, _, text = part.partition("\n")
            if commands := tuple(_commands(text)):
                found.append(Section(page.name, heading, commands))
    return found


def _commands(text):
    """Yield the commands of a text without their comments; a backslash goes on with the next line."""
    text = re.sub(r" *\\\n +", " ", text)
    for line in re.findall(rf"^    ({_PROGRAMS}(?: .+)?)$", text, re.MULTILINE):
        command = re.sub(r"\s+#\s.*$", "", line).strip()
        if "…" not in command and "(the same words" not in command:  # a part, not a command
            yield command
