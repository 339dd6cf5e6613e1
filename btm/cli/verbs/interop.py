"""The verbs that bring models in from elsewhere, and take them out."""

from dataclasses import asdict

from btm.cli.verbs.output import Output, show_elm
from btm.config.schema import Config


def import_model(config: Config, out: Output) -> None:
    """Add the Hugging Face model in from=DIR to a forest, or plant a forest with it; format=fairseq
    takes a checkpoint.

    In a forest it becomes an expert: name=NAME, domain=NAME (else its name), and parent=NAME if it
    was trained from an ELM of this forest. Where no forest stands it becomes the seed. Config,
    shapes, names, finite values and tokenizer are checked; remote code is never run, and pickled
    weights are read only with import.legacy=true. format=delta and delta8 take what export wrote in
    that format, into a forest that has the same parents; format=lora an adapter that peft saved, of
    an ELM here (parent=NAME); merge.force=true even if one of these is
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
    the same bytes. card.license=apache-2.0 states a licence on the card and in the README, as
    card.languages, card.sources, card.use and card.restrictions do theirs; what the licence of an
    ancestor forbids is refused (export.force=true).
    format=mergekit writes the YAML that makes the average again with mergekit, to=FILE or on the
    screen; format=fairseq a checkpoint that fairseq-eval-lm reads; format=delta what a sparse
    expert or an adapter adds to its parents; format=lora an adapter, also of an average of such
    experts, that peft loads; format=delta8 an ELM's difference from its parents, in 8 bits an
    element, for whoever has these (export.block=2048); format=gguf one file for llama.cpp,
    to=NAME.gguf, also in 8 bits (export.dtype=q8_0).

    example: btm export average=fitted to=models/fitted export.dtype=bf16
    """
    from btm.interop import formats

    path, text = formats.export_model(config, out.reporter)
    out.line(
        text.rstrip() if path is None else f"exported to {path}",
        {"path": path and str(path), "text": text},
    )


def push(config: Config, out: Output) -> None:
    """Send an ELM (expert=NAME), an average (average=NAME) or the whole forest to a remote forest.

    to=URL is s3://bucket/folder, gs://bucket/folder or file:///folder; credentials are the client
    library's own (AWS_ACCESS_KEY_ID, AWS_PROFILE, …). Only what is missing there is sent, hashed on
    the way; a model shows there once all of it is, and of two pushers one wins. push.as=delta sends
    a sparse expert or an adapter, push.as=delta8 any expert, as its difference from parents there.
    ELMs are never replaced there; an average is with push.replace=true. Killed, the same command
    goes on. to=hf://OWNER/NAME makes one model a repository of the Hugging Face Hub, with
    card.license= on its card and the rules of btm export.

    example: btm push experiment=demo average=fitted to=s3://bucket/demo
    """
    from btm.interop import remote

    done = remote.push(config, out.reporter)
    sent = sum(each.sent for each in done)
    out.line(
        f"at {config.to}: {', '.join(each.model for each in done)}; {sent:,} bytes sent",
        {"to": config.to, "models": [asdict(each) for each in done]},
    )


def pull(config: Config, out: Output) -> None:
    """Bring an ELM (expert=NAME), an average (average=NAME) or the whole forest from a remote.

    from=URL is what btm push wrote. Without a forest in forest=DIR one is planted. Every byte is
    hashed, and nothing the remote says is believed: a model is copied, looked at and tried in a box
    as btm import does, and an ELM that is worse here than a parent is refused (merge.force=true).
    Killed, the same command goes on with what was fetched.

    example: btm pull from=s3://bucket/demo forest=experts/demo expert=bible
    """
    from btm.interop import remote
    from btm.steps import received

    done = remote.pull(config, out.reporter, received.measuring(config, out.reporter))
    fetched = sum(each.fetched for each in done)
    out.line(
        f"{len(done)} models of {config.imports.source} stand in {config.forest_root}; "
        f"{fetched:,} bytes fetched",
        {"from": config.imports.source, "models": [asdict(each) for each in done]},
    )
