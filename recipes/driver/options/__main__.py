"""Check the options of a recipe: its module, then what was given."""

import sys

from . import recipes

getattr(recipes, f"parse_{sys.argv[1]}")(sys.argv[2:])
