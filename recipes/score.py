"""Scores of translations, all by sacreBLEU.

python -m recipes.score --hypotheses FILE --references FILE [--baseline FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from tabulate import tabulate

from data_prep import DataError
from data_prep.text import read_lines

SAMPLES = 10_000
"""Times that hypotheses change sides; sacreBLEU's default."""

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
        ``bleu``, ``chrf``, ``bleu_intl``, and each ``..._signature``.

    Raises:
        DataError: different numbers of lines, or none.

    >>> score(["a b c d e"], ["a b c d e"])["bleu_intl_signature"][:42]
    'nrefs:1|case:mixed|eff:no|tok:intl|smooth:'
    """
    _check(hypotheses=hypotheses, references=references)
    result: Dict[str, Any] = {}
    for name, make in METRICS.items():
        metric = make()
        found = metric.corpus_score(hypotheses, [references]).score
        result[name] = round(found, 2)
        result[f"{name}_signature"] = str(metric.get_signature())
    return result


def compare(
    system: Sequence[str], baseline: Sequence[str], references: Sequence[str]
) -> Dict[str, Any]:
    """Subtract a baseline's BLEU, and say how easily chance gives as much.

    Returns:
        ``bleu_difference``; ``bleu_p``, the two-sided p-value of sacreBLEU's paired
        approximate randomisation (Riezler and Maxwell, 2005), 1 for equal scores; and
        the ``test_signature`` with its seed. The p-value of its paired bootstrap is too
        small: it centres absolute differences.

    Raises:
        DataError: different numbers of lines, or none.
    """
    _check(system=system, baseline=baseline, references=references)
    systems = [("baseline", baseline), ("system", system)]
    test = PairedTest(systems, {"BLEU": BLEU(force=True)}, [references], "ar", SAMPLES)
    signatures, results = test()
    before, after = results["BLEU"]
    return {
        "bleu_difference": round(after.score - before.score, 2),
        "bleu_p": 1.0 if after.score == before.score else after.p_value,
        "test_signature": str(signatures["BLEU"]),
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
    options = parser.parse_args()
    try:
        references = read_lines(options.references)
        rows: List[List[str]] = []
        for file in filter(None, (options.hypotheses, options.baseline)):
            lines = read_lines(file)
            if len(lines) != len(references):
                raise DataError(
                    f"{file} has {len(lines)} lines but {options.references} has "
                    f"{len(references)}"
                )
            found = score(lines, references)
            rows.append([str(file), *(f"{found[name]:.2f}" for name in METRICS)])
        if options.baseline:
            difference = compare(
                read_lines(options.hypotheses), read_lines(options.baseline), references
            )
    except DataError as error:
        sys.exit(f"score: {error}")
    except OSError as error:
        sys.exit(f"score: {error.filename}: {error.strerror}")
    headers = ["", "BLEU", "chrF", "BLEU intl"]
    print(
        tabulate(
            rows, headers, disable_numparse=True, colalign=["left"] + 3 * ["right"]
        )
    )
    if options.baseline:
        print(
            f"BLEU {difference['bleu_difference']:+.2f} over the baseline, "
            f"p = {difference['bleu_p']:.4f}"
        )
        print(f"approximate randomisation: {difference['test_signature']}")
    for header, name in zip(headers[1:], METRICS):
        print(f"{header}: {found[f'{name}_signature']}")


def _check(**sides: Sequence[str]) -> None:
    counts = {name: len(lines) for name, lines in sides.items()}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        text = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise DataError(f"nothing to score line by line: {text}")


if __name__ == "__main__":
    main()
