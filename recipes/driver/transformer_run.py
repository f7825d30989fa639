"""What translation and language models share: a training of so many updates."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

from .fairseq_process import load_model
from .hardware import precision_flags
from .run import Run
from .settings import Transformers
from .training_log import lowest_loss

NEVER = str(10**9)


@dataclass(frozen=True)
class TransformerRun(Run):
    """A Transformer that is trained for a number of updates."""

    experiment: Transformers

    @property
    def length(self) -> Dict[str, int]:
        """Of the training, in updates."""
        return {"updates": self.experiment.training.updates}

    @property
    @abstractmethod
    def checkpoint(self) -> Path:
        """What is scored."""

    def saving_flags(self, kept: int) -> List[str]:
        """Make those for the log, and for checkpoints and their validations.

        Args:
            kept: of the last checkpoints.
        """
        interval = self.experiment.training.save_interval
        return [
            "--log-interval", str(min(20, interval)),
            "--save-interval-updates", str(interval),
            "--validate-interval-updates", str(interval),
            "--keep-interval-updates", str(kept),
            "--save-interval", NEVER, "--validate-interval", NEVER,  # at epochs' ends
        ]  # fmt: skip

    def about(self, training: Dict[str, Any]) -> Dict[str, Any]:
        """Tell the size of the model and how it was trained, for the line of results.

        Args:
            training: see :func:`read_training`.
        """
        from fairseq_phm import count_parameters

        settings = self.experiment.training
        model = load_model(self.checkpoint, data=str(self.data.folder / "bin"))
        parameters = count_parameters(model)
        return {
            "parameters": parameters["non_embedding"],
            "total_parameters": parameters["total"],
            "updates": settings.updates,
            **settings.interval_of_its_own(self.experiment.size),
            "trained_updates": training["curve"][-1][0],  # fewer with --patience
            "lr": settings.lr,
            "validation_loss": lowest_loss(training),
        }


def optimizer_flags(experiment: Transformers) -> List[str]:
    """Make the flags of fairseq-train for Adam, batches and precision."""
    training = experiment.training
    return [
        "--optimizer", "adam", "--lr", str(training.lr),
        "--warmup-updates", str(training.warmup_updates),
        "--max-tokens", str(training.max_tokens),
        *training.schedule_flags, *precision_flags(experiment.machine),
    ]  # fmt: skip
