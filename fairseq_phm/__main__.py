"""``python -m fairseq_phm`` is the command ``fairseq-phm``.

Without a command it lists flags: ``python -m fairseq_phm [MODEL]`` is
``fairseq-phm flags [MODEL]``.
"""

import sys

from .commands import main

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not arguments or arguments[0].startswith("phm_"):
        arguments = ["flags", *arguments]
    main(arguments, "python -m fairseq_phm")
