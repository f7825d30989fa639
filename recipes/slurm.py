"""Trainings as jobs of hydra's launchers, on Slurm by submitit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, List, Sequence

from .options import ROOT
from .runner import follow, step, tool

if TYPE_CHECKING:
    from .translation import Run

QUATERNION = [
    "model.phm_n=4",
    "model.phm_rule=quaternion",
    "model.phm_freeze_rule=true",
]


def submit(runs: Sequence[Run]) -> None:
    """Train all runs of an experiment and wait for them.

    A sweep of fairseq-hydra-train over n and seeds, one for the dense model and one for
    quaternions, from ``recipes/slurm.yaml``.

    Raises:
        RunError: a sweep failed; its last line is in the message.
    """
    sweeps: Dict[str, List[Run]] = {}
    for run in runs:
        sweeps.setdefault("n" if run.model.isdigit() else run.model, []).append(run)
    for kind, group in sweeps.items():
        command = sweep_command(kind, group)
        step(f"{len(group)} trainings by {group[0].options.slurm}: {kind}")
        log = group[0].data.folder.with_name(f"slurm-{kind}.log")
        for _ in follow(command, log):
            pass


def sweep_command(kind: str, runs: Sequence[Run]) -> List[str]:
    """fairseq-hydra-train for runs that differ in n and seed only.

    Args:
        kind: ``dense``, ``quaternion``, or ``n``: PHM with a learned rule.
    """
    run = runs[0]
    options, data, out = run.options, run.data.folder.absolute(), run.folder.parent
    seeds = ",".join(map(str, sorted({run.seed for run in runs})))
    models = ",".join(sorted({run.model for run in runs}))
    wide = options.wide and kind != "dense"
    start = "n${model.phm_n}" if kind == "n" else kind
    key = run.folder.name.rpartition("-")[2]
    folder = f"{start}{'-wide' if wide else ''}-seed${{common.seed}}-{key}"
    model = {"dense": ["model.phm_n=1"], "quaternion": QUATERNION}
    resources = {
        "nodes": options.nodes,
        "tasks_per_node": 1,
        "gpus_per_node": 0 if options.cpu else options.gpus,
    }
    launcher = [f"hydra.launcher.{name}={n}" for name, n in resources.items()]
    depth = [f"model.{s}.layers={options.layers}" for s in ("encoder", "decoder")]
    width = ["model.phm_attention_dim=1024"]
    width += [f"model.{s}.ffn_embed_dim=4096" for s in ("encoder", "decoder")]
    return [
        tool("fairseq-hydra-train"), "--multirun",
        "--config-dir", str(ROOT / "recipes"), "--config-name", "slurm",
        f"hydra/launcher={options.slurm}",
        f"hydra.sweep.dir={out.absolute()}", f"hydra.sweep.subdir={folder}",
        f"checkpoint.save_dir={out.absolute()}/{folder}",
        f"common.user_dir={ROOT / 'fairseq_phm'}", f"common.seed={seeds}",
        f"common.fp16={options.fp16}", f"common.bf16={options.bf16}",
        f"common.cpu={options.cpu}",
        f"task.data={data / 'bin'}",
        f"task.source_lang={run.source}", f"task.target_lang={run.target}",
        *model.get(kind, [f"model.phm_n={models}"]),
        *(depth if options.layers else []), *(width if wide else []),
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
