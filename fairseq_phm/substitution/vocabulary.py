"""Replace the token embeddings and the output projection of a model of fairseq."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Set, Tuple

from torch import nn

from ..modules import PHMEmbedding, PHMLinear, PHMLinearRows
from ..modules.phm_embedding import padded
from ..spec import PHMSpec

EMBEDDING, PROJECTION = "embed_tokens", "output_projection"
"""fairseq's names."""


@dataclass(frozen=True)
class Vocabulary:
    """One dense matrix (words, dim), and what it is the weight of.

    ``places`` are (parent, name), those of embeddings before those of projections.
    """

    path: str
    places: List[Tuple[nn.Module, str]]

    @property
    def dense(self) -> List[nn.Module]:
        """The modules that hold the matrix, at each place."""
        return [getattr(parent, name) for parent, name in self.places]

    def check(self, spec: PHMSpec) -> None:
        """Raise ValueError, with the path, where PHM factors do not fit."""
        words, dim = self.dense[0].weight.shape
        if any(getattr(module, "bias", None) is not None for module in self.dense):
            raise ValueError(f"{self.path}: PHM output projections have no bias")
        try:
            spec.check(dim, padded(words, spec.n))
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def replace(self, spec: PHMSpec) -> None:
        """Put one embedding with its tied projection, or a projection, in place."""
        first = self.dense[0]
        words, dim = first.weight.shape
        where = dict(device=first.weight.device, dtype=first.weight.dtype)
        if isinstance(first, nn.Embedding):
            made = PHMEmbedding(words, dim, spec, first.padding_idx, **where)
        else:
            whole = PHMLinear(
                dim, padded(words, spec.n), spec, False, std=dim**-0.5, **where
            )
            made = PHMLinearRows(whole, 0, words, tied=False)
        for module, (parent, name) in zip(self.dense, self.places):
            is_tied = isinstance(made, PHMEmbedding) and name == PROJECTION
            new = made.projection() if is_tied else made
            setattr(parent, name, new.train(module.training))


def find_vocabularies(
    model: nn.Module, spec: PHMSpec, share_rule: str
) -> List[Vocabulary]:
    """Find the embeddings and output projections of a model, by their matrices.

    Args:
        model: a built model of fairseq.
        spec: the options of what will replace them; none are found for n = 0 or 1.
        share_rule: of the projections; embeddings have rules of their own.

    Raises:
        ValueError: ``share_rule="model"``; there is no plain embedding; adaptive or
            character inputs, or adaptive softmax; a matrix that other modules use; a
            size that does not fit.
    """
    if spec.n in (0, 1):
        return []
    if share_rule == "model":
        raise ValueError(
            "embeddings have rules of their own: share_rule 'stack', not 'model'"
        )
    found: Dict[int, Vocabulary] = {}
    seen: Set[Tuple[int, str]] = set()
    modules = dict(model.named_modules(remove_duplicate=False))
    for wanted, kind in ((EMBEDDING, nn.Embedding), (PROJECTION, nn.Linear)):
        for path, module in modules.items():
            above, _, name = path.rpartition(".")
            parent = modules[above]
            if name == "adaptive_softmax" or (
                name == wanted and not isinstance(module, kind)
            ):
                raise ValueError(
                    f"{path}: PHM embeddings replace plain embeddings and output "
                    "projections, not adaptive or character ones"
                )
            if name == wanted and (id(parent), name) not in seen:
                seen.add((id(parent), name))
                made = found.setdefault(id(module.weight), Vocabulary(path, []))
                made.places.append((parent, name))
    if not any(name == EMBEDDING for one in found.values() for _, name in one.places):
        raise ValueError(f"{type(model).__name__} has no embedding {EMBEDDING}")
    for vocabulary in found.values():
        vocabulary.check(spec)
        _check_alone(vocabulary, modules)
    return list(found.values())


def _check_alone(vocabulary: Vocabulary, modules: Dict[str, nn.Module]) -> None:
    """Raise ValueError if modules of other names have the matrix, too."""
    matrix = vocabulary.dense[0].weight
    for path, module in modules.items():
        if path.rpartition(".")[2] in (EMBEDDING, PROJECTION):
            continue
        if any(held is matrix for held in module._parameters.values()):
            raise ValueError(f"{path} has the same weight as {vocabulary.path}")
