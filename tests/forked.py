"""Python programs as processes that need not import torch and fairseq first.

A server process has imported them, and forks. What a program does, prints and ends
with is what the same call of the interpreter gives, without the seconds of the import.
"""

import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = [
    "fairseq.checkpoint_utils", "fairseq.tasks", "fairseq.trainer",
    "torch._dynamo",  # by the first optimizer
]  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent


def python(*arguments, cwd=ROOT, env=None, stdin="", merged=False, check=False):
    """Run ``python ARGUMENTS``, which begin with ``-m MODULE``, ``-c CODE`` or a file.

    Args:
        cwd: where it runs.
        env: its whole environment; that of this process.
        stdin: text that it can read.
        merged: its errors go to stdout, too.
        check: fail, with the end of the output, if it fails.

    Returns:
        What :func:`subprocess.run` does.
    """
    arguments = list(map(str, arguments))
    CONTEXT.set_forkserver_preload(IMPORTED)  # here: not for servers of the program
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("stdin", "stdout", "stderr")]
        Path(files[0]).write_text(stdin, encoding="utf-8")
        if merged:
            files[2] = files[1]
        env = dict(os.environ if env is None else env)
        process = CONTEXT.Process(
            target=_become, args=(arguments, str(cwd), env, files)
        )
        process.start()
        process.join()
        out, err = (Path(file).read_text(encoding="utf-8") for file in files[1:])
    if check:
        assert process.exitcode == 0, (out + err)[-4000:]
    return subprocess.CompletedProcess(
        arguments, process.exitcode, out, "" if merged else err
    )


def _become(arguments, cwd, env, files):
    """Be the program: its streams, environment and folder, its end."""
    for number, file in enumerate(files):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    multiprocessing.set_start_method(None, force=True)  # the platform's, as always
    logging.root.handlers.clear()  # imports of fairseq have set one up
    logging.root.setLevel(logging.WARNING)
    import torch

    torch.set_num_threads(int(env.get("OMP_NUM_THREADS", 2)))
    status = 0
    try:
        _run(arguments, cwd)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.exit(status)


def _run(arguments, cwd):
    first, *rest = arguments
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [cwd, *filter(None, paths)]
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")
