"""The verbs that bring models in from elsewhere, and take them out."""

from btm.cli.verbs.output import Output, show_elm
from btm.config.schema import Config


def import_model(config: Config, out: Output) -> None:
    """Add the Hugging Face model in from=DIR to a forest, or plant a forest with it; format=fairseq
    takes a checkpoint.

    In a forest it becomes an expert: name=NAME, domain=NAME (else its name), and parent=NAME if it
    was trained from an ELM of this forest. Where no forest stands it becomes the seed. Config,
    shapes, names, finite values and tokenizer are checked; remote code is never run, and pickled
    weights are read only with import.legacy=true. format=delta and delta8 take what export wrote in
    that format, into a forest that has the same parents; merge.force=true even if one of these is
    better on the valid split here.

    example: btm import from=models/law-lm name=law domain=law forest=experts/mine
    """
    from btm.interop import formats
    from btm.steps import received

    measure = received.measuring(config, out.reporter)
    show_elm(formats.import_model(config, out.reporter, measure), out)


def export_model(config: Config, out: Output) -> None:
    """Write an ELM (expert=NAME), or an average=NAME, student=NAME or moe=NAME, as a folder that
    anybody loads.

    export.dtype=bf16 converts the weights, export.shard_gb=5 splits them; without these they are
    the same bytes. card.license=apache-2.0 states a licence on the card and in the README.
    format=mergekit writes the YAML that makes the average again with mergekit, to=FILE or on the
    screen; format=fairseq a checkpoint that fairseq-eval-lm reads; format=delta what a sparse
    expert adds to its parents; format=delta8 an ELM's difference from its parents, in 8 bits an
    element, for whoever has these (export.block=2048); format=gguf one file for llama.cpp,
    to=NAME.gguf, also in 8 bits (export.dtype=q8_0).

    example: btm export average=deploy to=models/deploy export.dtype=bf16
    """
    from btm.interop import formats

    path, text = formats.export_model(config, out.reporter)
    out.line(
        text.rstrip() if path is None else f"exported to {path}",
        {"path": path and str(path), "text": text},
    )
