"""Check the options of a recipe: its module, then what was given.

And that the interpreter of ``RECIPE_PYTHON``, which runs this, has the packages.
"""

import os
import sys
from importlib.util import find_spec

from data_prep import errors_in_one_line

from . import program, recipes

NEEDED = (
    "fairseq", "filelock", "matplotlib", "sacrebleu", "scipy", "sentencepiece",
    "tabulate", "torch", "tqdm",
)  # fmt: skip

module, arguments = sys.argv[1], sys.argv[2:]
with errors_in_one_line(program(module)):
    getattr(recipes, f"parse_{module}")(arguments)
missing = [name for name in NEEDED if not find_spec(name)]
if os.environ.get("RECIPE_PYTHON") and missing:
    sys.exit(
        f"{program(module)}: RECIPE_PYTHON {sys.executable} has no "
        f"{', '.join(missing)}: pip install '.[fairseq,recipes]', or leave it out"
    )
