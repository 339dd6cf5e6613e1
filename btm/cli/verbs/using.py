"""The verbs that use a forest: evaluate it, average it, let it write."""

from dataclasses import asdict

from btm.cli.verbs.output import Output, show_comparison, show_evaluation, sweep
from btm.config.schema import Config


def score(config: Config, out: Output) -> None:
    """Compute the token log-probabilities that are missing from the forest's cache.

    score.experts=[NAME, …] scores these alone: ELMs, averages, or models as models= names them.

    example: btm score score.splits=[test] score.domains=[law,med]
    """
    from btm import steps

    sweep(config)
    paths = steps.score(config, out.reporter)
    out.line(
        f"{len(paths)} score files written; the others stood there", [str(path) for path in paths]
    )


def evaluate(config: Config, out: Output) -> None:
    """Evaluate the ensemble, every ELM and every average on every domain; writes evals/<name>.json
    and a heat map.

    The domains are those of every suite that the forest records, or of eval.suites=[…], or of
    data.name=NAME alone. models=[…] adds rows: an average or ELM of another forest
    (path/to/forest:NAME), or a Hugging Face model folder with the forest's tokenizer.

    averages='{NAME: recipe, …}' adds averages that are not written: {bible: 0.5, speeches: 0.5},
    a word for the weights, or {weights: token, method: task_arithmetic, scale: 0.3} with the keys
    of btm average. Nothing of them stays but their scores, which the same average finds once it is
    written.

    example: btm eval experiment=demo ensemble.prior=em ensemble.top_k=2 models=[models/law-lm]
    eval.name=demo-em
    example: btm eval experiment=demo averages='{a: {bible: 0.3, seed: 0.7}, b: token}'
    """
    from btm import steps

    if config.averages:  # a killed command may have left one in the making
        sweep(config)
    show_evaluation(config, steps.eval_forest(config, out.reporter), out)


def compare(config: Config, out: Output) -> None:
    """Put the forest beside its averages, its seed, its baselines and other forests; one table,
    JSON, a picture.

    Baselines are those that stand in <forest>-dense, -dense_large_batch, -random_split and -demix;
    against=[FOREST, …] adds forests over the same tokens, models=[…] models as in btm eval. Every
    row is measured on the same tokens in windows begun anew (ensemble.carry=window, whatever the
    bundle says). Perplexities are means over domains; top-1 is the one expert of greatest prior,
    which is fitted on the domain's valid split (ensemble.top_k=1). Rows whose training tokens
    differ from the forest's by more than 1 % are marked. Writes evals/<name>-compare.json and a
    picture.

    example: btm compare experiment=demo against=[experts/mine] --json
    """
    from btm import steps

    if config.averages:
        sweep(config)
    show_comparison(steps.compare(config, out.reporter), steps.compared_file(config), out)


def bench(config: Config, out: Output) -> None:
    """Measure the ensemble and single models on tasks of lm-evaluation-harness (the extra eval).

    Without tasks= that is btm: five tasks made of the forest's own test text (eval.domains and
    eval.suites choose of which), whose files lie in evals/. tasks=[NAME, …] are lm-eval's own
    names, groups and tags, YAML files, or what bench.include=[DIR] holds. Data sets are fetched
    with bench.download=true alone. Tasks that run the code which a model writes are refused.

    bench.models=[forest, forest:bayes, law, averages/fitted] chooses the rows: the ensemble, the
    same under another rule, ELMs and other models; without it, the ensemble and each of its
    members. domain=NAME fits the ensemble's prior, and what its rule leaves open, on the valid
    split of that domain.

    A row is one model on one task; it names the sha256 of the weights and of all that was asked,
    and is not measured twice, so the same command goes on where it was stopped. Writes
    evals/<name>-bench.json.

    example: btm bench forest=experts/demo bench.limit=100
    example: btm bench forest=experts/demo tasks=[tasks/mine.yaml] bench.models=[forest,bible]
    """
    from btm import steps
    from btm.report import benchmarks

    sweep(config)
    found = steps.bench(config, out.reporter)
    if out.as_json:
        return out.line("", found.to_json()["rows"][: len(found.measured)])
    chosen = config.bench
    some = f", {chosen.limit} documents of each" if chosen.limit else ""
    few = f", {chosen.few_shot} examples before a question" if chosen.few_shot else ""
    title = f"first metric of each task{some}{few}"
    out.rows(benchmarks.table(found.measured), title, ("kind",))
    out.line(f"numbers: {steps.bench_file(config)}", None)


def average(config: Config, out: Output) -> None:
    """Make one deployable model of several, in averages/.

    Without a word on how: the token weights over all training domains, drawn towards the seed by a
    scale that is fitted on their valid splits; its name is `fitted`.

    weights=uniform; argmax, posterior or token, for domain=NAME or for all training domains; or
    weights='{law: 0.7, med: 0.3}'; for some layers others: average.layers='{*.mlp.*: {law: 1.0}}'.
    How they are put together is average.method: linear, task_arithmetic, ties, dare_ties,
    dare_linear, breadcrumbs, model_stock (these on differences from average.base, the seed if it is
    not given), slerp (from average.base to average.experts), fisher, greedy_soup (with
    domain=NAME).

    average.search=valid finds the weights instead, of the experts and the seed, by average.budget
    losses on the valid splits and their gradients; average.groups=[PATTERN, …] gives the tensors of
    each pattern weights of their own. It goes on where it was killed. average.search=tasks tries
    average.budget averages on tasks=[…] of lm-evaluation-harness (btm bench) instead, on documents
    that btm bench does not report.

    Before it is sealed it is measured, and the seed beside it, on the valid split of domain=NAME,
    or else of each domain that its ELMs were trained on. Its card says what came of it; a warning,
    if it is no better than the seed. average.measure=false leaves that out.

    example: btm average experiment=demo weights=posterior domain=novels
    example: btm average experiment=demo average.search=valid average.groups=[*.mlp.*]
    example: btm average experiment=demo average.search=tasks tasks=[btm_next] bench.limit=100
    """
    from btm import steps
    from btm.forest.card import Card
    from btm.forest.paths import ModelFolder

    sweep(config)
    path = steps.average(config, out.reporter)
    card = Card.read(ModelFolder(path).card)
    measured = {domain: asdict(part) for domain, part in card.measured.items()}
    value = {"path": str(path), "valid_nats": card.valid_nats, "seed_nats": card.seed_nats}
    out.line(f"averaged into {path}", value | {"measured": measured})


def mix(config: Config, out: Output) -> None:
    """Rank data mixtures before anything is trained on them, by averages of the experts.

    The loss of the experts' weighted average on the valid split of domain=NAME (or the mean over
    all domains trained on) stands in for that of a model trained on the mixture (arXiv 2410.15661):
    it orders mixtures, and does not forecast a loss. mix.candidates='[{law: 0.5, med: 0.5}, …]' are
    yours, mix.samples=N more are drawn. The average is drawn towards the seed (mix.scale). Averages
    are scored and not kept, and a mixture scored before costs nothing, so it goes on where it was
    killed. Writes evals/<name>-mix.json.

    example: btm mix experiment=demo domain=novels mix.samples=20
    example: btm mix domain=bio mix.candidates='[{law: 0.5, med: 0.5}, {med: 1}]' --json
    """
    from btm import steps
    from btm.steps.mix import rows_of

    sweep(config)
    ranking = steps.mix(config, out.reporter)
    if out.as_json:
        return out.line("", ranking.to_json())
    title = f"mixtures by the loss of averages on valid of {', '.join(ranking.text)}, best first"
    out.rows(rows_of(ranking), title, list(ranking.text))
    out.line(f"numbers: {steps.mix_file(config)}", None)


def distil(config: Config, out: Output) -> None:
    """Train one model to predict what the ensemble predicts, in students/.

    The ensemble of distil.teacher first reads the train text that the student will; its 64
    likeliest next tokens and the exact rest are kept in the forest, for every student that reads
    the same.
    Then one model, begun as the average of its teachers (distil.init), trains distil.steps steps
    on distil.weight times the divergence from the ensemble and the text's own loss for the rest.
    trainer.lr and the other words of trainer are those of the forest unless they are given.

    It is measured as an average is, and stands as a row of its own in eval and compare. The same
    command goes on where it was stopped.

    example: btm distil experiment=demo student=small distil.teacher=gated distil.steps=500
    """
    from btm import steps
    from btm.forest.card import Card
    from btm.forest.paths import ModelFolder

    sweep(config)
    path = steps.distil(config, out.reporter)
    card = Card.read(ModelFolder(path).card)
    measured = {domain: asdict(part) for domain, part in card.measured.items()}
    value = {"path": str(path), "valid_nats": card.valid_nats, "seed_nats": card.seed_nats}
    made = {"tokens": card.tokens, "flops": card.flops, "parents": list(card.parents)}
    out.line(f"distilled into {path}", value | made | {"measured": measured})


def moe(config: Config, out: Output) -> None:
    """Make one model in which a router sends each token to some of the ELMs' networks, in moes/.

    Of Llamas it is a Mixtral, of Qwen3 a Qwen3-MoE, of OLMo2 a FlexOlmo. The feed-forward networks
    of moe.experts become its experts byte for byte, all else is their average by weights= (as in
    btm average).
    moe.router=ridge and domain read moe.tokens of each domain's train text and train nothing;
    random trains nothing either; btx and base train the router, or moe.train=all, for moe.steps.

    moe.add=[NAME] and moe.remove=[NAME] let ELMs join or leave a mixture that stands (ridge, domain
    and random), without training and without reading the others' text again.

    It is measured as an average is before it is sealed; average.measure=false leaves that out.

    example: btm moe experiment=demo moe=mine moe.router=ridge moe.top_k=2
    example: btm moe experiment=demo moe=mine moe.remove=[bible]
    """
    from btm import steps
    from btm.forest.card import Card
    from btm.forest.paths import ModelFolder

    sweep(config)
    path = steps.moe(config, out.reporter)
    card = Card.read(ModelFolder(path).card)
    for line in steps.worth(card, "train it (moe.router=btx moe.train=all, docs/moe.md)"):
        out.reporter.line(line)
    measured = {domain: asdict(part) for domain, part in card.measured.items()}
    value = {"path": str(path), "valid_nats": card.valid_nats, "seed_nats": card.seed_nats}
    out.line(f"made {path}", value | {"measured": measured})


def generate(config: Config, out: Output) -> None:
    """Let the ensemble go on with prompt="…"; its experts are weighed anew after each token.

    domain=NAME starts from the prior of that domain, and ensemble.top_k=K then loads and runs K
    experts alone. ensemble.experts=[…] chooses who writes: ELMs, averages (one alone, or beside its
    own experts), FOREST:NAME, or Hugging Face model folders with the forest's tokenizer, which are
    checked as btm import checks them.

    example: btm generate experiment=demo prompt="In the beginning" domain=bible ensemble.top_k=2
    """
    from btm import steps

    if out.as_json:
        return out.line("", steps.generate(config, out.reporter))

    def show(piece: str) -> None:
        print(piece, end="", file=out.stdout, flush=True)

    made = steps.generate(config, out.reporter, show)
    print(file=out.stdout)
    print(
        ", ".join(f"{name} {weight:.3f}" for name, weight in made["experts"].items()),
        file=out.stderr,
    )
