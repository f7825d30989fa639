"""Speed of training and of translation, as in the paper's Table 3.

Models take steps on the same batches and translate the same sentences, in turn.
"""

from __future__ import annotations

import sys
from typing import List

from data_prep import errors_in_one_line
from data_prep.declaration import load

from ..report.speed import read, tables
from .data import Data
from .fairseq_process import quiet
from .hardware import check_machine, precision_flags, provenance
from .options import parse_speed, program
from .results import Line, add_lines, write_tables
from .settings import Speed
from .stages import digest, step
from .throughput import built, measure, measure_search
from .translation import TranslationRun


def main() -> None:
    """Run the benchmark; ``results.jsonl`` and ``tables.md`` get its figures."""
    experiment = parse_speed(sys.argv[1:])
    with errors_in_one_line(program("speed")):
        check_machine(experiment.machine)
        data = Data(experiment.source, experiment.folder, "parallel")
        data.prepare(True)
        lines = results(experiment, data)
        file = experiment.folder / "results.jsonl"
        add_lines(file, lines, ("benchmark", "model"))
        text = tables(read([file]))
        write_tables(experiment.folder, text)
        print("\n" + text)


def results(experiment: Speed, data: Data) -> List[Line]:
    """Measure all models of the benchmark, and make a line of each."""
    from fairseq_phm import count_parameters

    runs = [TranslationRun(model, 1, data, experiment) for model in experiment.models]
    step(f"Training, {len(runs)} models in turn, {experiment.rounds} rounds")
    training = measure(runs, experiment.rounds)
    step(f"Search, {experiment.sentences} sentences")
    search = measure_search(runs, experiment.rounds, experiment.sentences)
    with quiet():
        sizes = {run.model: count_parameters(built(run)[-1]) for run in runs}
    name = experiment.source.data_set
    declared = load(name) if name else data.set
    same = declared.languages == data.set.languages  # not the other direction
    published = declared.paper.speed if same else {}
    about = {
        "experiment": experiment.name,
        "size": experiment.size,
        "languages": list(data.set.languages),
        "data": data.summary,
        "arch": experiment.training.arch,
        "layers": experiment.training.layers,
        "precision": "".join(precision_flags(experiment.machine)).strip("-") or "fp32",
        "max_tokens": experiment.training.max_tokens,
        "beam": experiment.search.beam,
        "lenpen": experiment.search.lenpen,
        "rounds": experiment.rounds,
        **provenance(experiment.machine),
    }
    models = [str(model) for model in experiment.models]  # which took turns
    key = digest([about, experiment.sentences, experiment.extra, models])
    return [
        {
            **about,
            "benchmark": key,
            "model": str(run.model),
            "parameters": sizes[run.model]["non_embedding"],
            "training": training[run.model],
            "search": search[run.model],
            "published": list(published.get(str(run.model), ())),
        }
        for run in runs
    ]


if __name__ == "__main__":
    main()
