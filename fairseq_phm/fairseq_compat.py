"""What is changed in fairseq when the plugin is imported, by versions."""

from __future__ import annotations

import functools
import logging
import os
from types import ModuleType, SimpleNamespace
from typing import Any, Callable

import numpy as np

from .mismatch import say_why_checkpoints_do_not_fit
from .safe_load import allow_fairseq_checkpoints


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
