"""What the recipes have in common: names of files, sizes, groups of options.

Needs nothing but Python: options are checked before anything is installed.
"""

from __future__ import annotations

import re


def slug(experiment: str) -> str:
    """Name the files of an experiment: folders, JSON lines, notes and figures.

    >>> slug("SVA with rules of rank n"), slug("En-Vi")
    ('sva-with-rules-of-rank-n', 'en-vi')
    """
    return re.sub(r"[^\w.]+", "-", experiment.lower())
