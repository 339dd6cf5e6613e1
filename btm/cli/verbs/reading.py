"""The verbs of readers: questions, inference and links, answered on top of a forest."""

from dataclasses import asdict
from pathlib import Path

from btm.cli.verbs.output import Output
from btm.config.schema import Config
from btm.errors import UserError


def train(config: Config, out: Output) -> None:
    """Train a reader of questions, in readers/NAME of the forest.

    reader=link_prediction chooses its modules, and reader.questions, reader.input, reader.model and
    reader.output each of them; their ports are checked before anything is loaded. on=expert
    expert=NAME, on=average average=NAME and on=forest say whose hidden states read its text; the
    card names them by sha256. reader.data is a folder with a file for each of train, valid and test
    (docs/readers.md). The same command goes on where it was stopped.

    example: btm read train forest=experts/demo reader=link_prediction reader.data=graphs/nations
    example: btm read train reader=link_prediction reader.model=distmult reader.data=graphs/nations
    """
    from btm.readers import steps

    path, card = steps.train(config, out.reporter)
    valid = card.measured.get("valid", {})
    said = ", ".join(f"{name} {value:.3f}" for name, value in valid.items())
    shown = f"{path}: {card.steps:,} steps, {card.parameters:,} parameters"
    out.line(shown + (f"; valid: {said}" if said else ""), {"path": str(path)} | card.to_json())


def evaluate(config: Config, out: Output) -> None:
    """Measure a trained reader on the questions of reader.split, with 95 % intervals.

    Writes evals/reader-NAME-SPLIT.json. reader.data=FOLDER gives other questions than those of the
    folder that it was trained on.

    example: btm read eval forest=experts/demo reader.name=conve
    example: btm read eval forest=experts/demo reader.name=conve reader.split=valid --json
    """
    from btm.readers import steps

    found, file = steps.evaluate(config, out.reporter)
    if out.as_json:
        return out.line("", found.to_json())
    rows = [
        {"metric": name, "mean": each.mean, "95 % from": each.low, "to": each.high}
        for name, each in found.values.items()
    ]
    out.rows(rows, f"{found.reader} on {found.questions:,} questions of {found.split}")
    out.line(f"numbers: {file}", None)


def answer(config: Config, out: Output) -> None:
    """Let a trained reader answer a question; the best answer first, with its score.

    reader.support=[TEXT, …] is what it is about, reader.candidates=[…] the answers to choose from.
    Of links: 'subject relation ?' or '? relation object', with tabs where names have blanks; all
    three ask how likely the triple is.

    example: btm read answer forest=experts/demo reader.name=conve reader.question="cuba embassy ?"
    example: btm read answer reader.name=conve reader.question="cuba embassy brazil" --json
    """
    from btm.readers import steps

    found = steps.answer(config)
    if out.as_json:
        return out.line("", [asdict(each) for each in found])
    out.rows(
        [{"answer": each.text, "score": each.score, "span": each.span} for each in found],
        config.reader.question or "",
    )


def compare(config: Config, out: Output) -> None:
    """Put a reader on the forest beside the same on an average, the seed, the dense LM and experts.

    Each row is a reader of its own, trained by the same words: on all experts mixed by the domain
    posterior (forest), on average=NAME, on the seed, on the dense LM of <forest>-dense, and on each
    expert, of which `argmax` asks the one of greatest posterior for each question's support. All
    answer reader.split; intervals are 95 %, those of differences paired by question. Readers that
    stand are not trained again. Writes evals/reader-NAME-compare.json.

    example: btm read compare forest=experts/demo reader=nli reader.data=corpora/readers/nli
    example: btm read compare reader=extractive_qa reader.data=corpora/readers/qa average=fitted
    """
    from btm.readers import compare as comparing

    found, file = comparing.compare(config, out.reporter)
    if out.as_json:
        return out.line("", found.to_json())
    rows = []
    for row in found.rows:
        shown: dict[str, object] = {"on": row.on, "model": row.model}
        for metric, each in row.values.items():
            shown[metric] = f"{each.mean:.3f} [{each.low:.3f}, {each.high:.3f}]"
        metric, behind = next(iter(row.behind.items()))
        shown[f"forest ahead, {metric}"] = (
            f"{behind.mean:+.3f} [{behind.low:+.3f}, {behind.high:+.3f}]"
        )
        rows.append(shown)
    out.rows(rows, f"{found.reader} on {found.questions:,} questions of {found.split}", ["model"])
    for note in found.notes:
        out.line(note, None)
    out.line(f"numbers: {file}", None)


def audit(config: Config, out: Output) -> None:
    """Ask how much of a graph's test split leaks into train by inverse relations.

    A model that knows nothing but rules r'(o, s) → r(s, o), each as sure as it is in train, is
    ranked like any other: where it comes near a trained model, the benchmark measures the leak
    (arXiv 1707.01476, section 4). Nothing is trained, and no forest is read.

    example: btm read audit reader.data=graphs/nations
    example: btm read audit reader.data=corpora/readers/graphs/nations reader.split=valid --json
    """
    from btm.readers.links import audit as links

    if config.reader.data is None:
        raise UserError("which graph? give reader.data=FOLDER with train.txt, valid.txt, test.txt")
    found = links.audit(Path(config.reader.data), config.reader.split)
    if out.as_json:
        return out.line("", found.to_json())
    rows = [{"metric": name, "mean": value} for name, value in found.values.items()]
    about = f"{found.entities:,} entities, {found.triples:,} triples of {config.reader.split}"
    out.rows(rows, f"inverse rules alone on {about}")
    out.line(f"{found.explained:.1%} of these triples follow from a rule; {found.verdict}", None)
    rules = [asdict(rule) for rule in found.rules[:10]]
    if rules:
        out.rows(rules, "the surest rules")
