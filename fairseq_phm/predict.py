"""Labels and scores for a TSV file from trained classifiers.

python -m fairseq_phm.predict --path checkpoint_best.pt --input new.tsv --output out.tsv
"""

import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from fairseq import utils
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from fairseq.tasks import FairseqTask
from torch import nn

from .checkpoint import read_checkpoint
from .errors import DataError, one_line
from .files import written_whole
from .rebuild import task_options
from .tasks.classification import TASK
from .tasks.tsv import read_examples


class Predictions(NamedTuple):
    """Probabilities (rows, classes), the classes' labels, the true labels if known."""

    scores: torch.Tensor
    labels: List[str]
    truth: Optional[List[str]]

    @property
    def chosen(self) -> List[str]:
        """The most probable label of each row."""
        return [self.labels[i] for i in self.scores.argmax(dim=1).tolist()]

    @property
    def accuracy(self) -> Optional[float]:
        """Share of right labels in per cent; None without true labels."""
        if self.truth is None:
            return None
        right = sum(map(str.__eq__, self.chosen, self.truth))
        return 100 * right / len(self.truth)


@torch.no_grad()
def predict(
    paths: List[str], tsv: Path, batch_size: int = 256, device: str = "cpu"
) -> Predictions:
    """Classify the rows of a TSV file, laid out as the training data was.

    Args:
        paths: checkpoints; of several the probabilities are averaged.
        tsv: rows with the sentences and, in all of them or none, the label.
        batch_size: rows in a batch.
        device: where to compute.

    Raises:
        DataError: a checkpoint that is missing, of another task or diverged, or a
            fault in the file, with its line.
    """
    found = [_load(path) for path in paths]
    models, task = [model for model, _ in found], found[0][1]
    for path, (_, other) in zip(paths, found):
        for what, known in _agreed(task).items():
            if _agreed(other)[what] != known:
                raise DataError(f"{path}: has other {what} than {paths[0]}")
    examples = read_examples(
        tsv, task.columns, task.tokenize, task.labels, task.cfg.header, False
    )
    batches = task.get_batch_iterator(
        task.make_dataset(examples),
        max_sentences=batch_size,
        required_batch_size_multiple=1,
    ).next_epoch_itr(shuffle=False)
    for model in models:
        model.to(device).eval()
    scores = torch.empty(len(examples), len(task.labels))
    for batch in batches:
        if device != "cpu":
            batch = utils.move_to_cuda(batch, device)
        logits = [model(**batch["net_input"])[0] for model in models]
        mean = torch.stack([one.float().softmax(dim=1) for one in logits]).mean(dim=0)
        scores[batch["id"].cpu()] = mean.cpu()
    if not scores.isfinite().all():
        where = ", ".join(paths)
        raise DataError(f"{where}: the probabilities are not finite: it diverged")
    known = examples[0].label is not None
    return Predictions(
        scores, task.labels, [str(e.label) for e in examples] if known else None
    )


def _agreed(task: FairseqTask) -> Dict[str, Any]:
    """What tasks have in common whose models' probabilities are averaged."""
    return {
        "labels": task.labels,
        "columns": task.columns,
        "words": task.state.vocabulary["words"],
        "--word-tokenizer": str(task.cfg.word_tokenizer),
        "--lowercase": task.cfg.lowercase,
    }


def _load(path: str) -> Tuple[nn.Module, FairseqTask]:
    """Load a classifier and its task.

    Raises:
        DataError: it cannot be read, or is a model of another task.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such checkpoint")
    checkpoint = read_checkpoint(Path(path))
    try:
        name = task_options(checkpoint).get("_name", "none")
        if name != TASK:
            raise DataError(f"a model of another task: {name}, not {TASK}")
        models, _, task = load_model_ensemble_and_task([path])
    except Exception as error:  # fairseq raises any kind for a foreign file
        reason = one_line(error)
        if not isinstance(error, DataError):
            reason = f"no classifier of this plugin: {type(error).__name__} {reason}"
        raise DataError(f"{path}: {reason}") from None
    return models[0], task


def write(predictions: Predictions, path: Path) -> None:
    """Write a TSV file: its header, then the label and all scores of each row.

    Raises:
        DataError: the file cannot be written; it appears only when it is complete.
    """
    with written_whole(path, encoding="utf-8", newline="\n") as file:
        print("label", *predictions.labels, sep="\t", file=file)
        for label, row in zip(predictions.chosen, predictions.scores.tolist()):
            print(label, *(f"{s:.6f}" for s in row), sep="\t", file=file)


def main() -> None:
    """Run the command line."""
    from .commands import run_command

    run_command("predict", program="python -m fairseq_phm.predict")


if __name__ == "__main__":
    main()
