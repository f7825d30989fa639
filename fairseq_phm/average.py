"""The mean of several checkpoints of one training, as one checkpoint.

python -m fairseq_phm.average --inputs checkpoints --output checkpoints/averaged.pt
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from torch import Tensor

from .checkpoint import read_checkpoint, refuse_not_finite, updates_of
from .errors import DataError, one_line
from .functional import kronecker_sum
from .nearest import resembling
from .shared_rules import find_rules

MEANS = ("factors", "weights")
"""Mean of rules and of blocks, or of the weights H that they make."""

NUMBERED = (r"checkpoint_\d+_(\d+)\.pt", r"checkpoint(\d+)\.pt")
"""fairseq's names of checkpoints by updates, and by epochs."""


class Average(NamedTuple):
    """A checkpoint, and for each mean its distance from the mean of H.

    ``distances[mean]`` maps the name of a rule to |H - mean H| / |mean H|, in the
    Frobenius norm over all layers that have this rule. Empty when the layers are of
    kinds that only the mean of the factors fits.
    """

    checkpoint: Dict[str, Any]
    distances: Dict[str, Dict[str, float]]
    updates: List[int]


def average(paths: List[Path], mean: str = "factors") -> Average:
    """Average checkpoints of one model, dense or PHM.

    A weight H = sum_i kron(A_i, S_i) is bilinear in rule and blocks: the mean of the
    factors does not make the mean of H. ``weights`` takes the rule and blocks of the
    same n whose H are nearest to the mean of H (see :func:`nearest_factors`), for all
    layers of a shared rule at once; everything outside PHM layers is the same.

    Args:
        paths: files of ``fairseq-train``; read one after the other.
        mean: ``factors`` or ``weights``.

    Returns:
        The checkpoint with the mean of each floating-point entry, summed in float64
        and stored in its own type. Whole numbers, the options and all else are those
        of the input with the most updates; there is no state of an optimizer. Entries
        that were one tensor under several names stay one.

    Raises:
        DataError: no input, one that is no checkpoint, inputs of different entries or
            sizes, or low-rank blocks or CP rules with ``weights``.
    """
    if not paths:
        raise DataError("no checkpoints to average")
    read = _read(paths, mean)
    newest = read.newest
    result = {
        key: (read.sums[key] / len(paths)).to(value.dtype)
        if key in read.sums
        else value
        for key, value in newest["model"].items()
    }
    distances: Dict[str, Dict[str, float]] = {kind: {} for kind in MEANS if read.layers}
    for rule, blocks in read.layers.items():
        found = {"factors": {key: result[key] for key in (rule, *blocks)}}
        try:
            found["weights"] = _mean_of_weights(rule, blocks, read.factors)
            off = _distances(rule, blocks, found, read.factors)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = one_line(error)
            raise DataError(f"{rule} and its blocks do not fit: {reason}") from None
        for kind, distance in off.items():
            distances[kind][rule] = distance
        result.update(found[mean])
    first: Dict[Any, str] = {}
    for key, value in newest["model"].items():
        tensor = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        result[key] = result[first.setdefault(tensor, key)]
    newest["model"] = result
    newest.pop("last_optimizer_state", None)
    return Average(newest, distances, sorted(read.updates))


class _Read(NamedTuple):
    """What is read of the inputs: sums in float64, and rules and blocks, oldest first.

    ``layers`` maps the key of a rule to those of its blocks; ``newest`` is the
    checkpoint with the most updates.
    """

    newest: Dict[str, Any]
    sums: Dict[str, Tensor]
    layers: Dict[str, List[str]]
    factors: Dict[str, List[Tensor]]
    updates: List[int]


def _read(paths: List[Path], mean: str) -> _Read:
    updates: List[int] = []
    newest: Dict[str, Any] = {}
    sums: Dict[str, Tensor] = {}
    factors: Dict[str, List[Tensor]] = {}
    layers: Dict[str, List[str]] = {}
    for path in paths:
        checkpoint = read_checkpoint(path)
        model = checkpoint["model"]
        refuse_not_finite(model, path)
        if newest:
            _check_same(model, path, newest["model"], paths[0])
        else:
            layers, problem = find_rules(model)
            if problem and mean == "weights":
                raise DataError(f"{path}: {problem}: use --mean factors")
            layers = {} if problem else layers
            factors = {key: [] for rule in layers for key in (rule, *layers[rule])}
        for key, value in model.items():
            if key in factors:
                factors[key].append(value)
            if value.is_floating_point() or value.is_complex():
                wide = value.to(torch.promote_types(value.dtype, torch.float64))
                sums[key] = sums[key] + wide if key in sums else wide
        updates.append(updates_of(checkpoint))
        if updates[-1] == max(updates):
            newest = checkpoint
    order = sorted(range(len(paths)), key=updates.__getitem__)
    factors = {key: [values[i] for i in order] for key, values in factors.items()}
    return _Read(newest, sums, layers, factors, updates)


def nearest_factors(rules: Tensor, blocks: Tensor) -> Tuple[Tensor, Tensor]:
    """Find the rule and blocks whose H is nearest to the mean of several H.

    The mean over N checkpoints, rearranged as in :mod:`fairseq_phm.nearest`, is a
    matrix of rank N n, whose truncated singular value decomposition is the answer. It
    is taken from the thin factors, H is never formed. Rule and blocks are chosen to
    resemble the last checkpoint's, see :func:`fairseq_phm.nearest.resembling`. When all
    rules are equal, as frozen ones are, the rule is kept and the mean of the blocks is
    exact.

    Args:
        rules: (N, n, n, n), of N checkpoints, the newest last, in float64.
        blocks: (N, n, m), numbers of the blocks; of layers with one rule, side by side.

    Returns:
        Rule (n, n, n) and blocks (n, m).

    >>> rules, blocks = torch.randn(2, 4, 4, 4).double(), torch.randn(2, 4, 6).double()
    >>> rule, mean = nearest_factors(rules, blocks)
    >>> rule.shape, mean.shape
    (torch.Size([4, 4, 4]), torch.Size([4, 6]))
    """
    count, n = rules.shape[:2]
    if rules.eq(rules[-1]).all():
        return rules[-1], blocks.mean(dim=0)
    left, left_rest = torch.linalg.qr(rules.reshape(count * n, n * n).t())
    right, right_rest = torch.linalg.qr(blocks.reshape(count * n, -1).t() / count)
    u, s, v = torch.linalg.svd(left_rest @ right_rest.t(), full_matrices=False)
    return resembling(left @ u[:, :n], s[:n, None] * (v[:n] @ right.t()), rules[-1])


def find_checkpoints(inputs: List[Path], count: int) -> List[Path]:
    """List files as they are given, and the last numbered checkpoints of folders, once.

    Args:
        inputs: files or folders. In a folder count ``checkpoint_EPOCH_UPDATES.pt``,
            or where there is none ``checkpointEPOCH.pt``.
        count: how many to take of a folder; with fewer there is a line on stderr.

    Raises:
        DataError: a folder without numbered checkpoints.
    """
    found: List[Path] = []
    for path in inputs:
        if not path.is_dir():
            found.append(path)
            continue
        for pattern in NUMBERED:
            matches = [
                (re.fullmatch(pattern, file.name), file) for file in path.iterdir()
            ]
            numbered = sorted((int(m[1]), file) for m, file in matches if m)
            if numbered:
                break
        else:
            raise DataError(
                f"{path}: no checkpoint_EPOCH_UPDATES.pt or checkpointEPOCH.pt there"
            )
        if len(numbered) < count:
            there = f"{len(numbered)} numbered checkpoints, not {count}"
            print(f"warning: {path} has {there}", file=sys.stderr)
        found += [file for _, file in numbered[-count:]]
    return list(dict.fromkeys(found))


def main() -> None:
    """Run the command line."""
    from .commands import run_command

    run_command("average", program="python -m fairseq_phm.average")


def _check_same(
    model: Dict[str, Tensor], path: Path, other: Dict[str, Tensor], other_path: Path
) -> None:
    for key in model.keys() ^ other.keys():
        lacks, has = (path, other_path) if key in other else (other_path, path)
        raise DataError(f"{lacks}: no entry {key}, which {has} has")
    for key in model:
        if model[key].shape != other[key].shape:
            sizes = ["x".join(map(str, m[key].shape)) for m in (model, other)]
            raise DataError(f"{path}: {key} is {sizes[0]}, in {other_path} {sizes[1]}")


def _mean_of_weights(
    rule: str, blocks: List[str], factors: Dict[str, List[Tensor]]
) -> Dict[str, Tensor]:
    """Return entries of a rule and its layers that are nearest to the mean of H."""
    shapes = [factors[key][-1].shape for key in blocks]
    joined = [torch.stack(factors[key]).double().flatten(2) for key in blocks]
    new_rule, new_blocks = nearest_factors(
        torch.stack(factors[rule]).double(), torch.cat(joined, dim=2)
    )
    parts = new_blocks.split([part.size(2) for part in joined], dim=1)
    found = {rule: new_rule.to(factors[rule][-1].dtype)}
    for key, shape, part in zip(blocks, shapes, parts):
        found[key] = part.reshape(shape).to(factors[key][-1].dtype)
    return found


def _distances(
    rule: str,
    blocks: List[str],
    found: Dict[str, Dict[str, Tensor]],
    factors: Dict[str, List[Tensor]],
) -> Dict[str, float]:
    """Return |H - mean H| / |mean H| over the layers of a rule, for each mean."""
    off, whole = dict.fromkeys(found, 0.0), 0.0
    for key in blocks:
        weights = map(_weight, factors[rule], factors[key])
        mean = sum(weights) / len(factors[key])
        whole += float(mean.square().sum())
        for kind, entries in found.items():
            weight = _weight(entries[rule], entries[key])
            off[kind] += float((weight - mean).square().sum())
    return {
        kind: (square / whole) ** 0.5 if whole else 0.0 for kind, square in off.items()
    }


def _weight(rule: Tensor, blocks: Tensor) -> Tensor:
    return kronecker_sum(rule.double(), blocks.double())


if __name__ == "__main__":
    main()
