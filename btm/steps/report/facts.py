"""The facts of a report, as its page draws them (btm/report/html/page).

Shapes of lists of lists: D domains, M models, E experts of the ensemble, T tokens, K experts of a
sample. Perplexities are of one token; losses are nats per token; times are seconds since 1970.
"""

from dataclasses import dataclass, field

from btm.forest.relatives import Relative
from btm.system.json_files import Json


@dataclass(frozen=True)
class Domain:
    """One shard of an evaluation."""

    name: str  # domain/split
    novel: bool  # no ELM was trained on it
    tokens: int


@dataclass(frozen=True)
class Evaluation:
    """An evaluation: each model alone and the ensemble, on every domain."""

    name: str
    created: str  # UTC
    rule: str
    prior: str
    window: int  # tokens of context
    domains: list[Domain]  # D
    columns: list[str]  # M: the ensemble, what was measured beside it, the ELMs
    kinds: list[str]  # M: ensemble, by text alone, average, …, seed, expert
    perplexity: list[list[float]]  # (D, M)
    bits_per_byte: list[float]  # D, of the ensemble
    members: list[str]  # E
    priors: list[list[float]]  # (D, E)
    posteriors: list[list[float]]  # (D, E), the mean over the tokens
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Way:
    """One way to predict, with its costs: a row of the table of models."""

    model: str
    kind: str
    experts_run: float  # models run for a token, on the average
    flops_per_token: float  # of inference
    training_tokens: int | None  # with all ancestors; None: not recorded
    training_flops: float | None
    matched: bool | None  # as many training tokens as the forest, within 1 %
    ppl: float | None  # mean over the domains trained on
    novel_ppl: float | None  # mean over the novel ones


@dataclass(frozen=True)
class Ways:
    """The forest beside all that it was compared with."""

    source: str  # the file that says so
    created: str
    window: int
    reference: str  # the row that ratios are of
    rows: list[Way]  # the first is the forest itself
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sample:
    """The first tokens of a shard, and the weights of the experts before each of them."""

    domain: str  # domain/split
    novel: bool
    texts: list[str]  # T
    begins: list[int]  # tokens before which the weights begin anew
    experts: list[str]  # K of greatest mean weight
    weights: list[list[float]]  # (T, K); what is missing to 1 the others have
    nats: list[float]  # T, of the ensemble
    expert_nats: list[list[float]]  # (T, K)


@dataclass(frozen=True)
class Curve:
    """The course of one training, from metrics.jsonl, thinned out."""

    name: str
    kind: str
    planned: int  # steps, of the whole training
    steps: list[int]
    tokens: list[int]
    losses: list[float | None]  # None: not finite
    rates: list[float]  # learning rates
    speeds: list[float]  # tokens/s
    valid: list[float | None]  # None: not measured then


@dataclass(frozen=True)
class Try:
    """One try at a job of a cycle."""

    job: str
    verb: str  # seed, train, score or finish
    attempt: int
    kind: str  # done, killed, … as outcomes have it; running
    begun: float
    ended: float
    message: str = ""


@dataclass(frozen=True)
class JobRow:
    """One job of a cycle as it stands, as btm watch and btm status show it."""

    job: str
    state: str  # running, queued, waiting, done, failed, …
    attempt: int  # the number of its last try; 0: none yet
    step: str  # 5/10; empty where it has shown nothing
    loss: float | None  # nats per token
    speed: int | None  # tokens/s
    left: str | None  # the time that it still takes, in words
    parents: str  # with their weights, once it was branched
    why: str


@dataclass(frozen=True)
class Cycle:
    """The last cycle of a forest: its jobs' tries, those that were forgiven too."""

    id: str
    state: str  # finished, at work, stopped
    cluster: str  # debug, local, slurm
    tries: list[Try]
    waiting: list[str]  # jobs without a try
    jobs: list[JobRow] = field(default_factory=list)  # what runs or failed first


@dataclass(frozen=True)
class Cost:
    """Training, inference and size of one model."""

    name: str
    kind: str
    domains: list[str]
    tokens: int  # of its own training
    flops: float
    total_tokens: int  # with its ancestors', each once
    total_flops: float
    parameters: int
    bytes: int  # of its folder


@dataclass(frozen=True)
class Holding:
    """What a folder of the forest takes on disk."""

    folder: str
    files: int
    bytes: int


@dataclass(frozen=True)
class Reading:
    """One metric of one reader, with its 95 % interval."""

    reader: str
    split: str
    questions: int
    on: str  # what it stands on
    metric: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Language:
    """What stands in a forest of one language, by the cards of its experts."""

    tag: str  # BCP 47
    experts: list[str]
    domains: list[str]
    ppl: float | None  # of the ensemble, mean over these domains
    seed_ppl: float | None
    bits_per_byte: float | None


@dataclass(frozen=True)
class Rebuilding:
    """How the forest is grown again."""

    command: str
    settings: Json  # as the forest records them
    suites: Json
    notes: list[str]


@dataclass(frozen=True)
class Facts:
    """All that a report shows; `absent` says in a sentence why a part is missing."""

    forest: str
    path: str
    created: str  # UTC
    version: str
    model_type: str
    lineage: list[Relative]
    evaluation: Evaluation | None
    ways: Ways | None
    samples: list[Sample]
    curves: list[Curve]
    cycle: Cycle | None
    costs: list[Cost]
    disk: list[Holding]
    readings: list[Reading]
    benchmarks: list[dict[str, str]]  # a row a model, a column a task
    languages: list[Language]
    cards: list[Json]
    rebuilding: Rebuilding | None
    absent: dict[str, str] = field(default_factory=dict)
    # {evaluation, ways, readers, benchmarks: sentences}: results of models or text that are no more
    outdated: dict[str, list[str]] = field(default_factory=dict)
    live: int = 0  # seconds after which the file is written again; 0: it is not
