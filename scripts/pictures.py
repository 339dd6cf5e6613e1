"""Draw the pictures of docs/: an SVG for light pages and one for dark ones, in docs/pictures/.

    python scripts/pictures.py
    python scripts/pictures.py --posterior experts/demo      # first computes docs/results/demo/posterior.csv

Colours are Okabe and Ito's, which any colour vision tells apart; every colour has a word beside it.
"""

import argparse
import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from math import log2
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/results/demo"
TEXT = (
    "And the king said unto his servants, Go ye down to the river.\n\n"
    "def read(path):\n    with open(path) as file:\n        return file.read()\n\n"
    "Y dijo el rey a sus siervos: Descended al río.\n"
)
RULES = {"bayes": "bayes: the paper's posterior", "gated": "gated: the default"}
EXPERTS = {  # of TEXT's picture: the colour of each
    "bible": "#0072B2",
    "code_python": "#E69F00",
    "spanish": "#009E73",
    "python_docs": "#CC79A7",
    "metamath": "#56B4E9",
    "pronunciation": "#D55E00",
}
SEED, LAW, MED, CODE = "#999999", "#0072B2", "#E69F00", "#009E73"


@dataclass(frozen=True)
class Scheme:
    """Colours of a page."""

    name: str
    ink: str
    faint: str
    fill: str


SCHEMES = (
    Scheme("light", "#1f2328", "#6b7280", "#ffffff"),
    Scheme("dark", "#e6e9ef", "#9aa3b2", "#1e2129"),
)


@dataclass
class Drawing:
    """An SVG in the making; lengths in pixels."""

    width: int
    height: int
    scheme: Scheme
    about: str
    parts: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, text: str, size: int = 14, at: str = "middle", color: str = "",
        weight: str = "400",
    ) -> None:  # fmt: skip
        """Write a line around, before or behind (x, y)."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{at}" font-weight="{weight}"'
            f' fill="{color or self.scheme.ink}" xml:space="preserve">{escape(text)}</text>'
        )

    def box(self, x: float, y: float, w: float, h: float, color: str, text: str = "") -> None:
        """Draw a box with round corners, a colour at its edge, a word in it."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="8"'
            f' fill="{color}" fill-opacity="0.18" stroke="{color}" stroke-width="2"/>'
        )
        self.text(x + w / 2, y + h / 2 + 5, text, weight="600")

    def bar(self, x: float, y: float, w: float, h: float, color: str) -> None:
        """Fill a rectangle."""
        self.parts.append(
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{w:.2f}" height="{h:.2f}" fill="{color}"/>'
        )

    def arrow(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Draw a line with a head at its end."""
        self.parts.append(
            f'<path d="M{x0:g} {y0:g} C{(x0 + x1) / 2:g} {y0:g} {(x0 + x1) / 2:g} {y1:g} {x1:g} {y1:g}"'
            f' fill="none" stroke="{self.scheme.faint}" stroke-width="2" marker-end="url(#head)"/>'
        )

    def line(self, x0: float, y0: float, x1: float, y1: float, dash: str = "") -> None:
        """Draw a thin line."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<path d="M{x0:g} {y0:g} L{x1:g} {y1:g}" stroke="{self.scheme.faint}"'
            f' stroke-width="1"{dashed}/>'
        )

    def dot(self, x: float, y: float, color: str) -> None:
        """Draw a round point."""
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{color}" stroke="{self.scheme.fill}"/>'
        )

    def svg(self) -> str:
        """Write the whole picture."""
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}"'
            f' role="img" font-family="system-ui, sans-serif"><title>{escape(self.about)}</title>\n'
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7"'
            f' markerHeight="7" orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{self.scheme.faint}"/>'
            f"</marker></defs>\n{body}\n</svg>\n"
        )


def table(name: str) -> list[dict[str, str]]:
    """Read a table of the demo's results."""
    lines = (RESULTS / f"{name}.csv").read_text()
    return list(csv.DictReader(io.StringIO(lines)))


def cycle(scheme: Scheme) -> Drawing:
    """Branch, train, merge, and use."""
    drawn = Drawing(860, 300, scheme, "From a seed to a forest of experts")
    rows = {"law": (LAW, 60), "medicine": (MED, 140), "code": (CODE, 220)}
    for x, title in (
        (75, "seed phase"),
        (265, "branch"),
        (445, "train, each alone"),
        (655, "merge"),
    ):
        drawn.text(x, 28, title, 15, weight="600")
    drawn.box(20, 135, 110, 50, SEED, "seed")
    drawn.text(75, 208, "all domains", 12, color=scheme.faint)
    drawn.box(585, 45, 150, 235, SEED)
    drawn.text(660, 72, "forest", weight="600")
    for name, (color, y) in rows.items():
        drawn.arrow(132, 160, 206, y + 20)
        drawn.box(208, y, 110, 40, SEED, "copy")
        drawn.arrow(320, y + 20, 388, y + 20)
        drawn.box(390, y, 110, 40, color, name)
        drawn.arrow(502, y + 20, 603, 102 + (y - 60) * 0.6)
        drawn.box(605, 84 + (y - 60) * 0.6, 110, 36, color, name)
    drawn.box(605, 232, 110, 36, SEED, "seed")
    for number, way in enumerate(("ensemble", "one expert", "average", "student")):
        drawn.arrow(737, 160, 766, 85 + number * 50)
        drawn.text(772, 90 + number * 50, way, 14, "start")
    drawn.text(355, 288, "no traffic between them: other machines, other months, other owners", 12,
               color=scheme.faint)  # fmt: skip
    return drawn


def posterior(scheme: Scheme) -> Drawing:
    """Draw the weight of each expert before each token of TEXT, under two rules."""
    rows = table("posterior")
    count = len(rows) // len(RULES)
    drawn = Drawing(860, 400, scheme, "The weight of each expert before each token of a text")
    left, width, height = 40, 780, 110
    for number, (rule, title) in enumerate(RULES.items()):
        top = 40 + number * 165
        drawn.text(left, top - 10, title, 14, "start", weight="600")
        for place, row in enumerate(row for row in rows if row["rule"] == rule):
            x, y = left + place * width / count, top + height
            for expert, color in EXPERTS.items():
                tall = float(row[expert]) * height
                y -= tall
                if tall >= 0.05:
                    drawn.bar(x, y, width / count - 0.8, tall, color)
    tokens = [row["token"] for row in rows[:count]]
    parts = ("And the king said …", "def read(path): …", "Y dijo el rey …")
    begins = [0, tokens.index("def"), tokens.index("Y"), count]
    for begin, end, part in zip(begins[:-1], begins[1:], parts, strict=True):
        x = left + begin * width / count
        drawn.line(x, 36, x, 340, "3 3")
        drawn.text(left + (begin + end) / 2 * width / count, 172, part, 13, color=scheme.faint)
        drawn.text(left + (begin + end) / 2 * width / count, 337, part, 13, color=scheme.faint)
    for number, (expert, color) in enumerate(EXPERTS.items()):
        drawn.bar(left + number * 132, 365, 12, 12, color)
        drawn.text(left + number * 132 + 17, 376, expert, 12, "start")
    drawn.text(left - 6, 46, "1", 11, "end", scheme.faint)
    drawn.text(left - 6, 150, "0", 11, "end", scheme.faint)
    return drawn


SHOWN = {  # rows of one-model.csv: the word beside each, and its colour
    "ensemble of 8": ("ensemble of 8", LAW),
    "commit to 2 after 16": ("committed to 2", LAW),
    "commit to 1 after 16": ("committed to 1", LAW),
    "top-1 by token prior": ("top-1", LAW),
    "demo-dense": ("dense LM", "#D55E00"),
    "student-gated": ("student", CODE),
    "fitted": ("average", "#CC79A7"),
    "seed": ("seed", SEED),
}


def cost(scheme: Scheme) -> Drawing:
    """Perplexity by what a token costs, in-domain and novel."""
    rows = {row["model"]: row for row in table("one-model")}
    drawn = Drawing(860, 330, scheme, "Perplexity by the number of models run for a token")
    for left, scope, low, high in ((60, "in-domain", 20, 50), (490, "novel", 140, 300)):
        drawn.text(left + 170, 24, f"{scope}: perplexity, lower is better", 14, weight="600")
        drawn.text(left + 170, 322, "models run for a token", 12, color=scheme.faint)
        for tick in range(5):
            y = 280 - tick * 57.5
            drawn.line(left, y, left + 340, y)
            value = low + tick * (high - low) / 4
            drawn.text(left - 8, y + 4, f"{value:g}", 12, "end", scheme.faint)
        for models in (1, 2, 4, 8):
            drawn.text(left + 20 + log2(models) * 100, 300, str(models), 12, color=scheme.faint)
        points = []
        for name, (word, color) in SHOWN.items():
            x = left + 20 + log2(float(rows[name]["models run"])) * 100
            y = 280 - (float(rows[name][scope]) - low) / (high - low) * 230
            points.append((x, y, word, color))
        free = 0.0  # from here on down no word stands beside the points of one model
        for x, y, word, color in sorted(points, key=lambda point: point[1]):
            drawn.dot(x, y, color)
            if x < left + 50:
                free = max(free, y) + 15
                drawn.text(x + 12, free - 11, word, 12, "start")
            else:
                drawn.text(min(x, left + 300), y - 12, word, 12)
    return drawn


PICTURES: dict[str, Callable[[Scheme], Drawing]] = {
    "cycle": cycle,
    "posterior": posterior,
    "cost": cost,
}


def pictures() -> dict[str, str]:
    """Draw every picture: {name of the file in docs/pictures/: SVG}."""
    return {
        f"{name}-{scheme.name}.svg": draw(scheme).svg()
        for name, draw in PICTURES.items()
        for scheme in SCHEMES
    }


def weigh(root: str) -> None:
    """Read TEXT by the experts of a forest, from a uniform prior, and keep their weights."""
    from btm import Ensemble, Forest
    from btm.config.ensemble import EnsembleConfig
    from btm.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(Path(root) / "tokenizer")
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    prior = dict.fromkeys(EXPERTS, 1 / len(EXPERTS))
    with (RESULTS / "posterior.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["rule", "token", *EXPERTS])
        for rule in RULES:
            ensemble = Ensemble.load(Forest(root), prior, ensemble=EnsembleConfig(rule=rule))
            for each in ids:
                weights = [f"{ensemble.weights.get(expert, 0):.4f}" for expert in EXPERTS]
                writer.writerow([rule, tokenizer.decode([each]), *weights])
                ensemble.read([each])


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posterior", metavar="FOREST")
    forest = parser.parse_args().posterior
    if forest:
        weigh(forest)
    for name, svg in pictures().items():
        file = ROOT / "docs/pictures" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(svg)


if __name__ == "__main__":
    main()
