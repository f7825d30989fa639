"""What the rules and blocks of a checkpoint say, as numbers; the page is in ``page``.

Reads entries of a checkpoint alone: no model is built and no fairseq is needed.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from .algebras import Match, nearest_algebra, random_distance, similarity, span
from .checkpoint import name_of, options_of, parent_of
from .errors import DataError
from .functional import ALGEBRAS, cp_rule, make_rule
from .functional.weight import low_rank_blocks
from .shared_rules import find_rules, without_fusion
from .substitution.scopes import DEFAULT_SHARE_RULE


class Rule(NamedTuple):
    """A rule A (n, n, n) of a checkpoint, and the names of the layers that have it."""

    name: str
    rule: Tensor
    layers: List[str]

    @property
    def n(self) -> int:
        """The number of summands."""
        return len(self.rule)


class Layer(NamedTuple):
    """The n singular values of the rearranged weight of a layer, largest first."""

    name: str
    values: Tensor

    @property
    def effective(self) -> float:
        """The effective number of summands, 1 to n; 0 for a weight of zeros.

        The exponential of the entropy of the shares of the squared singular values
        (Roy and Vetterli, "The effective rank", 2007).
        """
        shares = self.values.square() / self.values.square().sum()
        return float(torch.special.entr(shares).sum().exp()) if self.values[0] else 0.0


class Move(NamedTuple):
    """How far a rule went from its start, and its span: 0 none, 1 all of it is new."""

    name: str
    entries: float
    span: float


class Inspection(NamedTuple):
    """What the page shows.

    ``start`` says how rules started, and ``moves`` is empty where that is unknown;
    ``frozen`` is None where the checkpoint does not say it. ``random`` maps n to the
    distance of random rules to their nearest algebra.
    """

    rules: List[Rule]
    layers: List[Layer]
    matches: List[Match]
    random: Dict[int, float]
    alike: Dict[int, Tensor]
    moves: List[Move]
    start: str
    frozen: Optional[bool]
    rank: int


def inspect(checkpoint: Mapping[str, Any]) -> Inspection:
    """Measure the rules and layers of a PHM checkpoint.

    Args:
        checkpoint: of fairseq, see :func:`fairseq_phm.checkpoint.read_checkpoint`;
            rules may be full ones or of CP rank R, learned or frozen.

    Raises:
        DataError: a dense checkpoint, or one whose rules cannot be told apart.
    """
    state = full_factors(checkpoint["model"])
    found, problem = find_rules(state)
    if problem:
        raise DataError(problem)
    if not found:
        raise DataError("has no PHM layers: there is nothing to inspect")
    options = options_of(checkpoint, "model")
    frozen = options.get("phm_freeze_rule")  # then each layer has the rule
    rules: Dict[Any, Rule] = {}
    layers = []
    for key, blocks in found.items():
        rule = state[key].double()
        names = [parent_of(one) or "the layer" for one in blocks]
        for one in (key, *blocks):
            if not state[one].isfinite().all():
                raise DataError(f"{one} has numbers that are not finite")
        same = rules.setdefault(
            rule.numpy().tobytes() if frozen else key, Rule(names[0], rule, [])
        )
        same.layers.extend(names)
        layers += [Layer(*pair) for pair in zip(names, _spectra(rule, state, blocks))]
    shared = list(rules.values())
    matches = _matches(shared)
    alike = {n: _alike(shared, n) for n in sorted({one.n for one in shared})}
    model = checkpoint["model"]
    ranks = [value.size(1) for key, value in model.items() if name_of(key) == "rule_v"]
    rank = max(ranks, default=0)
    start, moves = _moves(shared, options, rank)
    random = {n: random_distance(n) for n in alike}
    return Inspection(
        shared, layers, matches, random, alike, moves, start, frozen, rank
    )


def full_factors(model: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Return the entries of a state dict with full rules and full blocks only.

    Rules of CP rank R and blocks of low rank are multiplied out. The fused q, k and v
    of attention, stored as k or q, are called ``v_proj``, as v is in the pair of
    projections that has their rule. Tied embeddings are there once.
    """
    full = {}
    seen = set()
    for key, value in model.items():
        parent, dot, name = key.rpartition(".")
        called = without_fusion(parent, model) + dot

        def factor(other: str, start: str = parent + dot) -> Tensor:
            return model[start + other].float()

        if name in ("blocks", "blocks_u"):
            if value.data_ptr() in seen:
                continue
            seen.add(value.data_ptr())
        if name in ("rule", "blocks"):
            full[called + name] = value.float()
        elif name == "rule_v":
            u, v, w = (factor(one) for one in ("rule_u", "rule_v", "rule_w"))
            full[called + "rule"] = cp_rule(u, v, w)
        elif name == "blocks_u":
            blocks = low_rank_blocks(value.float(), factor("blocks_v"))
            full[called + "blocks"] = blocks
    return full


def _spectra(
    rule: Tensor, state: Mapping[str, Tensor], blocks: List[str]
) -> List[Tensor]:
    """Return the n singular values of A' S, the rearranged weight, for each S."""
    n = len(rule)
    left = torch.linalg.qr(rule.flatten(1).t())[1]
    spectra = []
    for key in blocks:
        right = torch.linalg.qr(state[key].double().reshape(n, -1).t())[1]
        values = torch.linalg.svdvals(left @ right.t())
        spectra.append(torch.cat([values, values.new_zeros(n - len(values))]))
    return spectra


def _matches(rules: List[Rule]) -> List[Match]:
    found: Dict[int, Match] = {}
    for n in {one.n for one in rules}:
        places = [i for i, one in enumerate(rules) if one.n == n]
        matches = nearest_algebra([rules[i].rule for i in places])
        found.update(zip(places, matches))
    return [found[i] for i in range(len(rules))]


def _alike(rules: List[Rule], n: int) -> Tensor:
    spans = [span(one.rule) for one in rules if one.n == n]
    return torch.tensor([[similarity(one, other) for other in spans] for one in spans])


def _moves(
    rules: List[Rule], options: Mapping[str, Any], rank: int
) -> Tuple[str, List[Move]]:
    # Defaults are not stored, but for this one, which came with the start "learned".
    known = options.get("phm_share_rule") == DEFAULT_SHARE_RULE
    name = options.get("phm_rule", "learned" if known else "")
    if rank:
        return "with random factors, which are not known", []
    if name not in ("learned", *ALGEBRAS):
        return "with random numbers, or it is not known how", []
    moves = []
    for one in rules:
        start = make_rule(name, one.n).double()
        off = float((one.rule - start).norm() / start.norm())
        kept = similarity(span(one.rule), span(start))
        moves.append(Move(one.name, off, max(0.0, 1 - kept)))
    many = "complex numbers" if name == "complex" else f"{name}s"
    kind = "of an associative algebra" if name == "learned" else f"of the {many}"
    return f"as the rule {kind}", sorted(moves, key=lambda one: -one.entries)
