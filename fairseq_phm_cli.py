"""The console script ``fairseq-phm``; its list of commands needs no torch."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    """List the commands, or run one."""
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        package = Path(find_spec("fairseq_phm").origin).parent
        runpy.run_path(str(package / "commands" / "__init__.py"))["main"]()
    from fairseq_phm.commands import main as run

    run()


if __name__ == "__main__":
    main()
