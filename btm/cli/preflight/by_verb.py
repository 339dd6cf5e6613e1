"""Which verb has which checks, cheap ones first."""

from collections.abc import Callable, Sequence

from btm.cli.preflight import extras, machine, names, shape
from btm.config.schema import Config

Check = Callable[[Config], None]

_TRAINING: Sequence[Check] = (extras.optimizer, extras.adapter, extras.mirrors, extras.fairseq)

CHECKS: dict[str, Sequence[Check]] = {
    "prepare": (extras.parquet, machine.data_folder),
    "discover": (extras.clustering, extras.parquet, machine.discover_folder),
    "seed": (
        *_TRAINING,
        names.seed_domains,
        machine.forest_folder,
        machine.device,
        machine.cards_of_seed,
        shape.source,
        shape.fits_forest,
        shape.positions,
        shape.runs,
        shape.carries,
        shape.fairseq_can,
    ),
    "train": (*_TRAINING, machine.device, machine.cards_of_train, shape.positions),
    "score": (extras.quantisation, machine.device, shape.positions),
    "eval": (extras.quantisation, machine.device, shape.positions),
    "compare": (extras.quantisation,),
    "average": (extras.harness_of_search,),
    "mix": (machine.device, shape.positions),
    "distil": (
        extras.optimizer,
        extras.mirrors,
        machine.device,
        shape.positions,
        machine.memory_of_student,
    ),
    "generate": (extras.quantisation, machine.device),
    "serve": (extras.server, extras.cluster, extras.quantisation, machine.token, machine.device),
    "bench": (extras.harness, extras.quantisation, machine.device),
    "import": (machine.forest_folder,),
    "export": (machine.export_folder,),
    "report": (machine.export_folder,),
    "watch": (machine.export_folder,),
    "push": (names.remote_of_push,),
    "pull": (names.remote_of_pull, machine.forest_folder),
    "run": (
        *_TRAINING,
        extras.parquet,
        machine.forest_folder,
        machine.data_folder,
        names.forest_of_baseline,
        names.domains_of_cycle,
        names.elms_of_cycle,
        names.models_of_cycle,
        names.parents_of_cycle,
        names.average_of_cycle,
        names.evaluation_of_cycle,
        names.seed_of_baseline,
        machine.device,
        machine.jobs,
        shape.source_of_cycle,
        shape.fits_forest,
        shape.positions,
        shape.runs,
        shape.carries,
        shape.fairseq_can,
        names.standing_of_cycle,
        machine.disk,  # the last: a large model takes a moment to count
    ),
    "paper": (
        *_TRAINING,
        extras.parquet,
        names.domains_of_paper,
        machine.data_folder,
        machine.paper_folder,
        machine.device,
        shape.source,
        shape.positions,
        shape.fairseq_can,
    ),
}
