"""Programs of this environment as processes that need not import fairseq first.

A server process has imported it, and forks. What a program does, prints and ends with
is what ``python -m MODULE`` would; only the seconds of the import are saved.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["fairseq.checkpoint_utils", "fairseq.tasks", "fairseq.trainer"]
)


def run_module(module, arguments, cwd, env, stdin=None):
    """Exit status and output, stderr included, of ``python -m module arguments``."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in ("stdin", "output")}
        files["stdin"].write_text(stdin or "", encoding="utf-8")
        files["output"].touch()
        process = CONTEXT.Process(
            target=_main, args=(module, list(map(str, arguments)), cwd, env, files)
        )
        process.start()
        process.join()
        return process.exitcode, files["output"].read_text(encoding="utf-8")


def _main(module, arguments, cwd, env, files):
    """Become the program."""
    output = os.open(files["output"], os.O_WRONLY | os.O_APPEND)
    for target, source in ((0, os.open(files["stdin"], os.O_RDONLY)), (1, output)):
        os.dup2(source, target)
    os.dup2(output, 2)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))
    sys.argv = [module, *arguments]
    import torch

    torch.set_num_threads(int(env.get("OMP_NUM_THREADS", 2)))
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if not isinstance(stop.code, (int, type(None))):
            print(stop.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
