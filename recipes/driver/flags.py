"""Flags of fairseq-train, as the words of a command line."""

from __future__ import annotations

from typing import Dict, Iterable, List, Tuple


def values_of(words: Iterable[str]) -> Dict[str, List[str]]:
    """Read flags with their values; as in fairseq, the last one of a name counts.

    >>> values_of(["--lr", "0.1", "--betas", "0.9", "0.98", "--lr=0.2", "--fp16"])
    {'--lr': ['0.2'], '--betas': ['0.9', '0.98'], '--fp16': []}
    """
    found: Dict[str, List[str]] = {}
    flag = ""
    for word in words:
        if word.startswith("--"):
            flag, given, value = word.partition("=")
            found[flag] = [value] if given else []
        else:
            found.setdefault(flag, []).append(word)
    return found


def split_phm(words: Iterable[str]) -> Tuple[List[str], List[str]]:
    """Split off ``--phm-...`` and their values, which the dense twin has not.

    >>> split_phm(["--lr", "0.1", "--phm-rule-lr", "8", "--fp16"])
    (['--phm-rule-lr', '8'], ['--lr', '0.1', '--fp16'])
    """
    phm: List[str] = []
    others: List[str] = []
    part = others
    for word in words:
        if word.startswith("--"):
            part = phm if word.startswith("--phm-") else others
        part.append(word)
    return phm, others
