"""Trainings as jobs of hydra's launchers, on Slurm by submitit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Dict, List, Sequence

from .fairseq_process import follow, step, tool
from .models import Model
from .options import ROOT

if TYPE_CHECKING:
    from .translation import Run

QUATERNION = [
    "model.phm_n=4",
    "model.phm_rule=quaternion",
    "model.phm_freeze_rule=true",
]


def submit(runs: Sequence[Run]) -> None:
    """Train all runs of an experiment and wait for them.

    A sweep of fairseq-hydra-train over n and seeds for each kind of models that differ
    in n only, from ``recipes/driver/slurm.yaml``.

    Raises:
        RunError: a sweep failed; its last line is in the message.
    """
    sweeps: Dict[Model, List[Run]] = {}
    for run in runs:
        kind = replace(run.model, n=0) if run.model.family == "PHM" else run.model
        sweeps.setdefault(kind, []).append(run)
    for group in sweeps.values():
        names = ", ".join(dict.fromkeys(run.model.name for run in group))
        step(f"{len(group)} trainings by {group[0].options.slurm}: {names}")
        log = group[0].data.folder.with_name(f"slurm-{group[0].model.slug}.log")
        command = sweep_command(group)
        for _ in follow(command, log):
            pass


def sweep_command(runs: Sequence[Run]) -> List[str]:
    """fairseq-hydra-train for runs that differ in n and seed only."""
    run = runs[0]
    model = run.model
    options, data, out = run.options, run.data.folder.absolute(), run.folder.parent
    seeds = ",".join(map(str, sorted({run.seed for run in runs})))
    values = {**model.options(options.arch)}
    slug = model.slug
    if model.family == "PHM":
        values["phm_n"] = ",".join(map(str, sorted({run.model.n for run in runs})))
        slug = "n${model.phm_n}" + slug[len(f"n{model.n}") :]
    key = run.folder.name.rpartition("-")[2]
    folder = f"{slug}-seed${{common.seed}}-{key}"
    quaternion = QUATERNION if model.family == "quaternion" else []
    resources = {
        "nodes": options.nodes,
        "tasks_per_node": 1,
        "gpus_per_node": 0 if options.cpu else options.gpus,
    }
    launcher = [f"hydra.launcher.{name}={n}" for name, n in resources.items()]
    depth = [f"model.{s}.layers={options.layers}" for s in ("encoder", "decoder")]
    return [
        tool("fairseq-hydra-train"), "--multirun",
        "--config-dir", str(ROOT / "recipes" / "driver"), "--config-name", "slurm",
        f"hydra/launcher={options.slurm}",
        f"hydra.sweep.dir={out.absolute()}", f"hydra.sweep.subdir={folder}",
        f"checkpoint.save_dir={out.absolute()}/{folder}",
        f"common.user_dir={ROOT / 'fairseq_phm'}", f"common.seed={seeds}",
        f"common.fp16={options.fp16}", f"common.bf16={options.bf16}",
        f"common.cpu={options.cpu}",
        f"task.data={data / 'bin'}",
        f"task.source_lang={run.source}", f"task.target_lang={run.target}",
        *quaternion, *(f"model.{_section(key)}={values[key]}" for key in values),
        *(depth if options.layers else []),
        f"optimization.max_update={options.updates}",
        f"optimization.lr=[{options.lr}]",
        f"lr_scheduler.warmup_updates={options.warmup_updates}",
        f"dataset.max_tokens={options.max_tokens}",
        f"dataset.validate_interval_updates={options.save_interval}",
        f"checkpoint.save_interval_updates={options.save_interval}",
        f"checkpoint.keep_interval_updates={options.num_checkpoints}",
        f"common.log_interval={min(20, options.save_interval)}",
        f"distributed_training.distributed_world_size={options.gpus * options.nodes}",
        f"distributed_training.distributed_port={29500 if options.nodes > 1 else -1}",
        *(launcher if options.slurm.startswith("submitit") else []),
        *options.extra,
    ]  # fmt: skip


def _section(option: str) -> str:
    """The place in yaml of an option of the model.

    >>> _section("encoder_ffn_embed_dim"), _section("phm_n")
    ('encoder.ffn_embed_dim', 'phm_n')
    """
    side, _, name = option.partition("_")
    return f"{side}.{name}" if side in ("encoder", "decoder") else option
