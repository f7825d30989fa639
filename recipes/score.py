"""Scores of translations, all by sacreBLEU.

python -m recipes.score --hypotheses FILE --references FILE [--baseline FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import scipy
from sacrebleu.metrics import BLEU, CHRF
from scipy.stats import permutation_test
from tabulate import tabulate

from data_prep import DataError, errors_in_one_line
from data_prep.text import read_lines

SAMPLES, SEED = 10_000, 12345
"""Times that hypotheses change sides, and the seed: sacreBLEU's defaults."""

METRICS = {  # force: the first one alone says when text looks tokenised
    "bleu": lambda: BLEU(),
    "chrf": lambda: CHRF(),
    "bleu_intl": lambda: BLEU(tokenize="intl", force=True),
}


def score(hypotheses: Sequence[str], references: Sequence[str]) -> Dict[str, Any]:
    """Score a test set, 0 to 100, and say what sacreBLEU calls each score.

    ``bleu`` is what to report: mixed case, tokenised as WMT's mteval-v13a does;
    ``chrf`` is chrF2, which needs no words. ``bleu_intl`` is there to compare with the
    paper: its code is tensor2tensor's, whose ``t2t-bleu`` splits off punctuation and
    symbols as mteval-v14 does in international mode, and so does sacreBLEU's ``intl``.
    Both count n-grams, smooth and penalise short output alike. They differ beside
    numbers that are no decimal digits, as in "½.", which t2t-bleu splits and mteval and
    sacreBLEU do not. t2t-bleu prints a cased and an uncased score; this is the cased.

    Args:
        hypotheses: detokenised lines.
        references: as many lines.

    Returns:
        ``bleu``, ``chrf``, ``bleu_intl``, and each ``..._signature``; ``length_ratio``,
        hypotheses over references in BLEU's tokens, which BLEU penalises below 1.

    Raises:
        DataError: different numbers of lines, or none.

    >>> score(["a b c d e"], ["a b c d e"])["bleu_intl_signature"][:42]
    'nrefs:1|case:mixed|eff:no|tok:intl|smooth:'
    """
    _check(hypotheses=hypotheses, references=references)
    result: Dict[str, Any] = {}
    for name, make in METRICS.items():
        metric = make()
        found = metric.corpus_score(hypotheses, [references])
        result[name] = round(found.score, 2)
        result[f"{name}_signature"] = str(metric.get_signature())
        if name == "bleu":
            result["length_ratio"] = round(found.ratio, 3)
    return result


def compare(
    system: Sequence[str], baseline: Sequence[str], references: Sequence[str]
) -> Dict[str, Any]:
    """Subtract a baseline's BLEU, and say how easily chance gives as much.

    The hypotheses of each line change sides or not, by chance or, of a few lines, in
    every way (approximate randomisation: Riezler and Maxwell, 2005). sacreBLEU's own
    tests give too small a p-value: its approximate randomisation counts no ties, which
    are the rule where few lines differ, and its bootstrap centres absolute differences.

    Returns:
        ``bleu_difference``; ``bleu_p``, two-sided; and the ``test_signature``.

    Raises:
        DataError: different numbers of lines, or none.

    >>> both, one = ["a b c d e", "f g h i j"], ["a b c d e", "f g x i j"]
    >>> compare(both, one, both)["bleu_p"]
    1.0
    """
    _check(system=system, baseline=baseline, references=references)
    metric = BLEU(effective_order=True)
    counts = np.array(
        [
            [*found.counts, *found.totals, found.sys_len, found.ref_len]
            for lines in (system, baseline)
            for found in map(metric.sentence_score, lines, zip(references))
        ]
    )  # of each line, the system's first
    orders = metric.max_ngram_order

    def bleu(lines: Any) -> float:
        *ngrams, length, wanted = counts[lines].sum(0).tolist()
        matches, totals = ngrams[:orders], ngrams[orders:]
        return BLEU.compute_bleu(matches, totals, length, wanted, "exp").score

    def difference(one: Any, other: Any) -> float:
        return bleu(one) - bleu(other)

    places = np.arange(len(counts))
    sides = np.split(places, 2)
    found, p = difference(*sides), 1.0
    if len(references) > 1:  # of one line a change of sides changes the sign alone
        p = permutation_test(
            sides, difference, permutation_type="samples", vectorized=False,
            n_resamples=SAMPLES, random_state=SEED,
        ).pvalue  # fmt: skip
    return {
        "bleu_difference": round(found, 2),
        "bleu_p": float(p),
        "test_signature": f"ar:{SAMPLES}|seed:{SEED}|scipy:{scipy.__version__}",
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.score",
        description="BLEU, chrF and the BLEU that the paper's tool computes, of "
        "detokenised text; with a baseline the difference and its significance.",
    )
    for name in ("hypotheses", "references", "baseline"):
        needed = name != "baseline"
        parser.add_argument(f"--{name}", type=Path, required=needed, metavar="FILE")
    given = parser.parse_args()
    with errors_in_one_line("score"):
        print(report(given.hypotheses, given.references, given.baseline))


def report(hypotheses: Path, references: Path, baseline: Optional[Path]) -> str:
    """Score the lines of files; with a baseline, compare them with its own.

    Raises:
        DataError: a file that cannot be read, or different numbers of lines.
    """
    true = read_lines(references)
    texts: List[List[str]] = []
    rows: List[List[str]] = []
    for file in filter(None, (hypotheses, baseline)):
        lines = read_lines(file)
        if len(lines) != len(true):
            raise DataError(
                f"{file} has {len(lines)} lines but {references} has {len(true)}"
            )
        found = score(lines, true)
        scores = [f"{found[name]:.2f}" for name in METRICS]
        rows.append([str(file), *scores, f"{found['length_ratio']:.3f}"])
        texts.append(lines)
    headers = ["", "BLEU", "chrF", "BLEU intl", "length"]
    align = ["left"] + 4 * ["right"]
    said = [tabulate(rows, headers, disable_numparse=True, colalign=align)]
    if baseline:
        tested = compare(*texts, true)
        said += [
            f"BLEU {tested['bleu_difference']:+.2f} over the baseline, "
            f"p = {tested['bleu_p']:.4f}",
            f"approximate randomisation: {tested['test_signature']}",
        ]
    for header, name in zip(headers[1:], METRICS):
        said.append(f"{header}: {found[f'{name}_signature']}")
    return "\n".join(said)


def _check(**sides: Sequence[str]) -> None:
    counts = {name: len(lines) for name, lines in sides.items()}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        text = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise DataError(f"nothing to score line by line: {text}")


if __name__ == "__main__":
    main()
