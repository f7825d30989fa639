"""Trainings as jobs of hydra's launchers, on Slurm by submitit."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Sequence

import yaml

from .fairseq_process import follow, quiet
from .settings import ROOT
from .stages import RunError, step

if TYPE_CHECKING:
    from .translation import TranslationRun

COMPONENTS = ("task", "criterion", "optimizer", "lr_scheduler")
COMMON = (
    "common", "dataset", "optimization", "checkpoint", "distributed_training",
)  # fmt: skip
LOG = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"


def submit(runs: Sequence[TranslationRun]) -> None:
    """Train all runs of an experiment and wait for them.

    Raises:
        RunError: a sweep failed; its last line is in the message.
    """
    for group in sweeps(runs):
        experiment = group[0].experiment
        names = ", ".join(dict.fromkeys(run.model.name for run in group))
        step(f"{len(group)} trainings by {experiment.machine.launcher}: {names}")
        log = experiment.folder / f"slurm-{group[0].model.slug}.log"
        list(follow(sweep_command(group), log))


def sweeps(runs: Sequence[TranslationRun]) -> List[List[TranslationRun]]:
    """Group runs for fairseq-hydra-train, which trains each n with each seed.

    The models of a group differ in n only, and all have the same seeds to train.
    """
    found: Dict[Any, List[TranslationRun]] = {}
    for run in runs:
        model = run.model
        one_n = model.family != "PHM" or model.whole  # whole: two options have it
        kind = model if one_n else replace(model, n=0)
        seeds = tuple(other.seed for other in runs if other.model == model)
        found.setdefault((kind, seeds), []).append(run)
    return list(found.values())


def sweep_command(runs: Sequence[TranslationRun]) -> List[str]:
    """Make the command that trains runs which differ in n and seed only.

    Writes its configuration into the folder of the experiment, which exists.
    """
    run, machine = runs[0], runs[0].experiment.machine
    folder = run.experiment.folder.absolute()
    name = f"slurm-{run.folder.name}"
    text = yaml.safe_dump(configuration(run), sort_keys=False)
    (folder / f"{name}.yaml").write_text(f"# @package _group_\n{text}", "utf-8")
    ns = [f"model.phm_n={_list({r.model.n for r in runs})}"]
    resources = {
        "nodes": machine.nodes,
        "tasks_per_node": 1,
        "gpus_per_node": 0 if machine.cpu else machine.gpus,
    }
    launcher = [f"hydra.launcher.{name}={n}" for name, n in resources.items()]
    return [
        tool("fairseq-hydra-train"), "--multirun",
        "--config-dir", str(folder), "--config-name", name,
        f"hydra/launcher={machine.launcher}",
        f"common.seed={_list({r.seed for r in runs})}",
        *(ns if run.model.family == "PHM" else []),
        *(launcher if machine.launcher.startswith("submitit") else []),
        *run.experiment.extra,
    ]  # fmt: skip


def tool(name: str) -> str:
    """Find a command of this environment.

    Raises:
        RunError: there is none of this name.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    found = found or shutil.which(name)
    if not found:
        raise RunError(f"no command {name}: pip install '.[fairseq]'")
    return found


def configuration(run: TranslationRun) -> Dict[str, Any]:
    """Make the configuration of hydra that trains as the run's flags do.

    It has what the flags change of fairseq's defaults, and all options of task, model,
    criterion, optimizer and schedule, which overrides may change then.
    """
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from omegaconf import OmegaConf

    from fairseq_phm.models.phm_transformer import PHMTransformerConfig

    def read(arguments: List[str]) -> Any:
        parsed = options.parse_args_and_arch(options.get_training_parser(), arguments)
        config = convert_namespace_to_omegaconf(parsed)
        return parsed, {
            key: OmegaConf.to_container(config[key], enum_to_str=True)
            for key in (*COMMON, *COMPONENTS)
            if config[key] is not None
        }

    plain = replace(run, experiment=replace(run.experiment, extra=()))
    with quiet():
        flags, ours = read([*plain.saving, *plain.arguments])
        _, default = read([plain.arguments[0], "--arch", flags.arch])
    model = asdict(PHMTransformerConfig.from_namespace(flags))
    made: Dict[str, Any] = {
        section: {k: v for k, v in ours[section].items() if v != default[section][k]}
        for section in COMMON
    }
    elsewhere = {name for section in COMMON for name in ours[section]} - {"_name"}
    components = {key: ours[key] for key in COMPONENTS}
    components["model"] = {**model, "_name": "phm_transformer"}
    for section, values in components.items():
        # what other sections have is a reference to them there
        made[section] = {k: v for k, v in values.items() if k not in elsewhere}
    place = _place(run)
    merged = {k: {**made.get(k, {}), **place.get(k, {})} for k in {**made, **place}}
    return json.loads(json.dumps(merged, default=str))


def _place(run: TranslationRun) -> Dict[str, Any]:
    """Folders, machine and log."""
    machine, folder = run.experiment.machine, run.experiment.folder.absolute()
    slug = run.model.slug
    if run.model.family == "PHM":
        slug = "n${model.phm_n}" + slug[len(f"n{run.model.n}") :]
    key = run.folder.name.rpartition("-")[2]
    name = f"{slug}-seed${{common.seed}}-{key}"
    return {
        "common": {
            "user_dir": str(ROOT / "fairseq_phm"),
            "seed": run.seed,
            "log_format": "json",
            "reset_logging": False,
            "cpu": machine.cpu,
        },
        "task": {"data": str(run.data.folder.absolute() / "bin")},
        "optimization": {"max_update": run.experiment.training.updates},
        "checkpoint": {"save_dir": f"{folder}/{name}", "no_epoch_checkpoints": True},
        "distributed_training": {
            "distributed_world_size": machine.devices,
            "distributed_port": 29500 if machine.nodes > 1 else -1,
        },
        "hydra": {
            "job": {"name": "train"},
            "job_logging": {"formatters": {"simple": {"format": LOG}}},
            "sweep": {"dir": str(folder), "subdir": name},
        },
    }


def _list(numbers: Iterable[int]) -> str:
    return ",".join(map(str, sorted(numbers)))
