"""What differs between fairseq-fixed 0.12.3.1, fairseq 0.12.2 and their torch."""

from __future__ import annotations

import argparse
import functools
import logging
import os
from types import ModuleType, SimpleNamespace
from typing import Any, Callable, Dict, Mapping, Tuple

import numpy as np
import torch
from torch import Tensor, nn


def prepare_fairseq(package: str) -> None:
    """Make fairseq work with this plugin and with today's torch.

    Args:
        package: the plugin's name.
    """
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
    allow_fairseq_checkpoints()
    import_user_dir_once(package)
    name_types_of_numpy_1()
    warn_of_optimizers_that_scale()
    say_why_checkpoints_do_not_fit()
    keep_batches_when_a_training_goes_on()


def allow_fairseq_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)``, torch's default since 2.6, read fairseq's
    checkpoints: allow-list the types that they hold besides tensors.

    These are the command line's Namespace and, with ``--eval-bleu``, NumPy arrays of
    integer n-gram counts, as NumPy 1 and NumPy 2 name them.
    """
    if not hasattr(torch.serialization, "add_safe_globals"):
        return
    reconstruct = np.array(0).__reduce__()[0]
    safe = [argparse.Namespace, np.ndarray, np.dtype, type(np.dtype("int64"))]
    if torch_version() >= (2, 6):
        safe += [
            (reconstruct, "numpy.core.multiarray._reconstruct"),
            (reconstruct, "numpy._core.multiarray._reconstruct"),
        ]
    torch.serialization.add_safe_globals(safe)


def torch_version() -> Tuple[int, ...]:
    """Return its first two numbers."""
    return tuple(int(part) for part in torch.__version__.split(".")[:2])


def import_user_dir_once(package: str) -> None:
    """Make fairseq take every ``--user-dir .../package`` as imported already.

    fairseq refuses a user directory whose name is an imported module of another path,
    as when the plugin is both pip-installed and in a clone.
    """
    from fairseq import utils

    class ImportedUserDirs(set):
        def __contains__(self, path: object) -> bool:
            return os.path.basename(str(path)) == package or super().__contains__(path)

    memo = getattr(utils.import_user_module, "memo", ())
    utils.import_user_module.memo = ImportedUserDirs(memo)


class NumPy1(ModuleType):
    """NumPy, and the one name of NumPy 1 that fairseq's data sets ask for."""

    compat = SimpleNamespace(long=int)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def name_types_of_numpy_1() -> None:
    """Let fairseq's data sets ask for ``np.compat.long``, which NumPy 2 has not.

    Without it, language models cannot read one sentence a sample
    (``--sample-break-mode eos``), which generation needs.
    """
    from fairseq.data import language_pair_dataset, token_block_dataset

    if not hasattr(np, "compat"):
        for module in (language_pair_dataset, token_block_dataset):
            module.np = NumPy1("numpy")


def warn_of_optimizers_that_scale() -> None:
    """Make fairseq say it when an optimizer undoes the learning rate of the rules.

    LAMB, and Adafactor with ``--scale-parameter``, take steps in proportion to the size
    of a parameter: scaled rules (see :class:`fairseq_phm.PHMLinear`) move as if their
    rate were 1. All other optimizers of fairseq heed it.
    """
    from fairseq import optim

    def warning(build: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(build)
        def build_and_warn(cfg: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
            params = list(params)
            scaled = any(getattr(p, "has_rule_lr", False) for p in params)
            name = _optimizer_that_scales(cfg)
            if scaled and name:
                logging.getLogger(__name__).warning(
                    "%s takes steps in proportion to the size of a parameter: "
                    "--phm-rule-lr has no effect with it",
                    name,
                )
            return build(cfg, params, *args, **kwargs)

        return build_and_warn

    optim.build_optimizer = warning(optim.build_optimizer)
    # This one hands copies of the parameters on; the others call the one above.
    half = optim.FP16Optimizer
    half.build_optimizer = staticmethod(warning(half.build_optimizer))


def _optimizer_that_scales(cfg: Any) -> str:
    """Return its name, or nothing. ``cfg`` is its own, or has it as ``optimizer``."""
    cfg = cfg if hasattr(cfg, "_name") else getattr(cfg, "optimizer", cfg)
    name = getattr(cfg, "_name", "")
    if name == "lamb":
        return "LAMB"
    if name == "adafactor" and getattr(cfg, "scale_parameter", False):
        return "Adafactor with --scale-parameter"
    return ""


def say_why_checkpoints_do_not_fit() -> None:
    """Let fairseq's trainer end with what a checkpoint lacks, in one line.

    It puts an error of its own, which gives no reason, in the place of any other.
    """
    from fairseq.trainer import Trainer

    load = Trainer.load_checkpoint

    @functools.wraps(load)
    def load_or_say_why(self: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return load(self, filename, *args, **kwargs)
        except Exception as error:
            from .mismatch import CheckpointMismatch

            reason = error.__context__
            if isinstance(reason, (RuntimeError, KeyError)):  # 0.12.2: KeyError
                reason = _mismatch_with_dense(self.model, filename, reason)
            if not isinstance(reason, CheckpointMismatch):
                raise
            raise CheckpointMismatch(f"{filename}: {reason}") from None

    Trainer.load_checkpoint = load_or_say_why


def _mismatch_with_dense(model: nn.Module, path: str, reason: Exception) -> Exception:
    """Return the reason, or a better one: PHM layers are to go into a dense model."""
    from .checkpoint import read_checkpoint
    from .errors import DataError, show_data_errors_in_one_line
    from .mismatch import CheckpointMismatch, mismatch

    if isinstance(reason, CheckpointMismatch):
        return reason
    try:
        state = read_checkpoint(path)["model"]
    except DataError:
        return reason
    if not any(key.endswith((".blocks", ".blocks_u")) for key in state):
        return reason
    show_data_errors_in_one_line()
    return mismatch(model, state, reason)


def keep_batches_when_a_training_goes_on() -> None:
    """Give a training that is resumed in a later epoch the batches that it had.

    fairseq-fixed makes the batches that all epochs share with a seed that has the epoch
    of the start in it. After an interruption they were others: part of the sentences
    of that epoch came twice, others never.
    """
    from fairseq.tasks import FairseqTask

    get = FairseqTask.get_batch_iterator

    @functools.wraps(get)
    def get_same(self: Any, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        epoch = kwargs.get("epoch", 1)
        anew = kwargs.get("disable_iterator_cache")
        anew = anew or kwargs.get("update_epoch_batch_itr")
        if epoch == 1 or anew or not self.can_reuse_epoch_itr(dataset):
            return get(self, dataset, *args, **kwargs)
        known = dataset in self.dataset_to_epoch_iter
        iterator = get(self, dataset, *args, **{**kwargs, "epoch": 1})
        if not known:
            dataset.set_epoch(epoch)
            iterator.epoch = epoch
        return iterator

    FairseqTask.get_batch_iterator = get_same


BETTER_TRANSFORMER_COPIES = tuple(
    f"{name}_{part}"
    for name in ("in_proj", "out_proj", "fc1", "fc2")
    for part in ("weight", "bias")
)


def without_copies(state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Return the entries of a state dict but for fairseq 0.12.2's dense copies."""
    copies = BETTER_TRANSFORMER_COPIES
    return {k: v for k, v in state.items() if k.rpartition(".")[2] not in copies}


def leave_better_transformer(model: nn.Module) -> None:
    """Take fairseq 0.12.2's dense copies of the weights out of its encoder layers.

    That version registers eight more parameters in each ``TransformerEncoderLayerBase``
    for torch's fused inference layer, which knows dense weights only, and which fails
    when source sentences are padded. Other versions are left as they are.
    """
    for layer in model.modules():
        if not hasattr(layer, "load_to_BT"):
            continue
        for name in BETTER_TRANSFORMER_COPIES:
            if layer._parameters.pop(name, None) is not None:
                setattr(layer, name, torch.empty(0))
        layer.can_use_fastpath = False
        layer._load_from_state_dict = functools.partial(
            nn.Module._load_from_state_dict, layer
        )
