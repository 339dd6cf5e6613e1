"""Which verbs read which keys; a key that cannot have an effect on a verb is refused.

The words of a cycle (data, model, trainer, seed, cluster, ensemble, run, … and all bundles) are
accepted by every verb, because scripts give them to each step as one block. The keys below ask one
verb, or a few, for something of their own.
"""

from dataclasses import replace

from btm.config.load import LoadConfig
from btm.config.schema import Config
from btm.errors import UserError

_ONE = (
    "show",
    "verify",
    "lineage",
    "diff",
    "remove",
    "export",
    "push",
    "pull",
)  # ask about one model
_CYCLE = ("run", "paper")  # do the steps of other verbs
# One block of words often serves these three: what `branch` reads, the others may be given too.
_STEPS = ("branch", "train", "merge")
# The steps of a cycle, which one block of words is given to, and what else makes cards.
_GROWING = (
    *("prepare", "seed", *_STEPS, "grow", "score", "eval", "compare"),
    *("average", "distil", "import"),
    *_CYCLE,
)
_FIT = ("read train", "read compare")
_READING = (*_FIT, "read eval", "read answer")
_COMMONS = (
    *("commons join", "commons train", "commons submit", "commons review", "commons admit"),
    *("commons reject", "commons status", "commons leave", "commons remove", "commons revoke"),
)
_MEASURING = ("eval", "compare", "grow", *_CYCLE)

# A key, or a section by its name and a dot, and the verbs that read it.
READERS: dict[str, tuple[str, ...]] = {
    "expert": (*_STEPS, "grow", "import", "logs", "cancel", "read train", *_ONE),
    "domain": (
        *(*_STEPS, "grow", "average", "mix", "moe", "import", "generate", "bench", *_CYCLE),
        *("commons join", "commons train", "commons submit", "commons review"),
        *("commons admit", "commons reject", "commons leave", "commons remove"),
    ),
    "weights": (*_STEPS, "average", "moe", "grow", "commons init", *_CYCLE),
    "parent": (*_STEPS, "import", "grow", "commons init", *_CYCLE),
    "against": ("diff", "compare", "run"),
    "models": _MEASURING,
    "averages": ("eval", "compare"),
    "tasks": ("bench", "average"),
    "bench.models": ("bench",),
    "bench.": ("bench", "average"),
    "prompt": ("generate",),
    "generate.": ("generate",),
    "serve.engine": ("serve", "doctor"),
    "serve.ray.address": ("serve", "doctor"),
    "serve.": ("serve",),
    "load.": ("score", "eval", "compare", "generate", "bench", "serve"),
    "imports.source": ("import", "grow", "pull", *_COMMONS),
    "format": ("import", "export"),
    "to": ("export", "push", "report", "watch", "commons init"),
    "export.block": ("export", "push", "commons train", "commons submit"),
    "export.force": ("export", "push"),
    "export.": ("export",),
    "push.": ("push",),
    "imports.legacy": ("import", "seed", *_STEPS, "grow", *_CYCLE),
    "card.": (*_GROWING, "export", "push", "remove", "commons train", "commons admit"),
    "average.name": ("average", "run", *_FIT, *_ONE),
    "distil.name": ("distil", *_ONE),
    "distil.": ("distil",),
    "moe.name": ("moe", *_ONE),
    "moe.": ("moe",),
    "average.experts": ("average", *_CYCLE),
    "average.base": ("average", *_CYCLE),
    "average.search": ("average", "run"),
    "average.budget": ("average", "run"),
    "average.groups": ("average", "run"),
    "score.experts": ("score", *_CYCLE),
    "score.domains": ("score", *_CYCLE),
    "score.splits": ("score", *_CYCLE),
    "ensemble.cache": ("eval", "compare", "grow", "run"),
    "ensemble.commit": ("eval", "compare", "generate", "serve", "bench", "grow", "run"),
    "ensemble.recall": ("eval", "compare", "generate", "serve", "bench", "grow", "run"),
    "eval.domains": (*_MEASURING, "bench"),
    "eval.split": _MEASURING,
    "mix.": ("mix",),
    "on": ("read train",),
    "reader.name": (*_READING, "remove"),
    "reader.data": (*_FIT, "read eval", "read audit"),
    "reader.split": ("read eval", "read compare", "read audit"),
    "reader.question": ("read answer",),
    "reader.support": ("read answer",),
    "reader.candidates": ("read answer",),
    **{f"reader.{kind}": _READING for kind in ("questions", "input", "model", "output")},
    "reader.": _FIT,
    "commons.name": ("commons init", "commons join"),
    "commons.maintainer": ("commons join",),
    "commons.hours": ("commons join", "commons train"),
    "commons.every": ("commons train",),
    "commons.probes": ("commons review", "commons admit"),
    "commons.revoked": ("commons revoke",),
    "commons.reason": ("commons reject", "commons revoke", "commons leave"),
    "commons.": ("commons init",),
    "discover.": ("discover",),
    "paper.": ("paper",),
    "ls.": ("ls",),
    "remove.": ("remove",),
    "lineage.": ("lineage",),
    "diff.": ("diff",),
}

# Verbs that make ELMs one by one, where a baseline is grown by `run` alone, and `compare`, which
# finds baselines by itself.
STEP_BY_STEP = ("prepare", "discover", "seed", "branch", "train", "merge", "grow", "import")
NO_BASELINE = (*STEP_BY_STEP, "compare", "doctor")

# The sections, and `branch`, of a cycle's words that a verb makes use of; it accepts the others in
# silence.
_MODELS = ("data", "trainer", "score", "ensemble")  # opens a suite, runs models, weighs them
_EVALUATES = (*_MODELS, "eval")
_TRAINS = ("data", "model", "trainer", "fairseq", "seed", "card", "cluster")
_WHOLE = (*_TRAINS, "score", "ensemble", "merge", "average", "eval", "run", "branch")
SECTIONS: dict[str, tuple[str, ...]] = {
    "prepare": ("data",),
    "discover": ("data",),
    "seed": _TRAINS,
    "branch": (*_MODELS, "model", "seed", "branch"),
    "train": _TRAINS,
    "merge": (*_MODELS, "merge", "card"),
    "grow": (*_TRAINS, "score", "ensemble", "merge", "eval", "branch"),
    "score": _MODELS,
    "eval": _EVALUATES,
    "compare": _EVALUATES,
    "bench": _EVALUATES,
    "average": (*_MODELS, "average", "card"),
    "mix": (*_MODELS, "eval"),
    "distil": (*_MODELS, "seed", "card"),
    "moe": (*_MODELS, "moe"),
    "generate": _MODELS,
    "report": ("data", "eval"),
    "serve": ("trainer", "ensemble"),
    "import": (*_MODELS, "seed", "card", "merge"),
    "export": ("card",),
    "pull": (*_MODELS, "merge"),
    "read train": ("trainer", "ensemble"),
    "read compare": ("trainer", "ensemble", "seed"),
    "read eval": ("trainer",),
    "read answer": ("trainer",),
    "commons init": ("seed",),
    "commons join": ("trainer",),
    "commons train": (*_TRAINS, "score", "merge"),
    "commons review": _MODELS,
    "commons admit": (*_MODELS, "card"),
    "run": _WHOLE,
    "paper": _WHOLE,
    "remove": (*_TRAINS, "score", "ensemble", "merge", "average"),
}

# The key that was perhaps meant, by verb and by the key that was given.
_MEANT = {
    ("generate", "expert"): "ensemble.experts=[NAME]",
    ("generate", "average.name"): "ensemble.experts=[NAME]",
    ("generate", "models"): "ensemble.experts=[NAME]",
    ("serve", "expert"): "ensemble.experts=[NAME]",
    ("serve", "models"): "ensemble.experts=[NAME]",
    ("eval", "expert"): "ensemble.experts=[NAME]",
    ("eval", "score.experts"): "ensemble.experts=[NAME]",
    ("eval", "average.name"): "models=[NAME]",
    ("average", "averages"): "weights=, or btm eval averages=",
    ("eval", "domain"): "eval.domains=[NAME]",
    ("eval", "score.domains"): "eval.domains=[NAME]",
    ("bench", "expert"): "bench.models=[NAME]",
    ("bench", "average.name"): "bench.models=[NAME]",
    ("bench", "models"): "bench.models=[NAME]",
    ("compare", "expert"): "models=[NAME]",
    ("compare", "average.name"): "models=[NAME]",
    ("compare", "domain"): "eval.domains=[NAME]",
    ("score", "expert"): "score.experts=[NAME]",
    ("score", "average.name"): "score.experts=[NAME]",
    ("score", "models"): "score.experts=[NAME]",
    ("score", "domain"): "score.domains=[NAME]",
    ("score", "eval.domains"): "score.domains=[NAME]",
    ("average", "expert"): "average.experts=[NAME], or average.name=NAME for the result",
    ("distil", "expert"): "distil.experts=[NAME], or student=NAME for the result",
    ("distil", "domain"): "distil.domains=[NAME]",
    ("ls", "domain"): "ls.domain=NAME",
    ("ls", "parent"): "ls.parent=NAME",
    ("ls", "expert"): "ls.name=NAME",
    ("mix", "eval.domains"): "domain=NAME",
    ("mix", "weights"): "mix.candidates='[{NAME: 0.5, NAME: 0.5}]'",
    ("report", "expert"): "eval.name=NAME",
    ("run", "expert"): "run.domains=[NAME]",
}


def readers(key: str) -> tuple[str, ...] | None:
    """Return the verbs that read `key`; None for a word of a cycle, which every verb accepts."""
    return READERS.get(key) or READERS.get(key.partition(".")[0] + ".")


def reads(verb: str, key: str) -> bool:
    """Tell whether ``btm <verb>`` makes use of `key`, as far as READERS and SECTIONS declare it."""
    if (known := readers(key)) is not None:
        return verb in known
    if key == "baseline":
        return verb not in NO_BASELINE
    # Without forest=, the name of the suite is that of the forest.
    return key in ("forest", "data.name") or key.partition(".")[0] in SECTIONS.get(verb, ())


def settled(verb: str, config: Config) -> Config:
    """Return `config` with models in float32 for a verb that does not read `load`.

    A bundle may ask for int8 beside words of other verbs, whose results would not tell of it.
    """
    return config if reads(verb, "load.dtype") else replace(config, load=LoadConfig())


def require(verb: str, key: str, given: str) -> None:
    """Raise `UserError` if `key`, given as the word `given`, has no effect on ``btm <verb>``.

    It names the verbs that read the key and, where one suggests itself, the key that was meant.
    """
    known = readers(key)
    if known is None or verb in known:
        return
    meant = _MEANT.get((verb, key))
    hint = f"; did you mean {meant}?" if meant else ""
    raise UserError(f"btm {verb} does not read {given}: it is a key of {', '.join(known)}{hint}")
