"""fairseq's own tests, as they are and with PHM layers in their models.

    python tests/fairseq_suite.py --fairseq CHECKOUT

CHECKOUT is a clone of fairseq at the version that is installed; only its folder
``tests`` is used. Exits with 1 if a test passes as it is and fails with PHM layers.

With them, architectures are those that begin with ``phm_``, with n = 2;
``TransformerModel`` and ``LSTMModel`` are the PHM models, and the attention of tests of
attention has PHM projections. Resuming is tested with Transformers, both times.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = (
    "binaries", "sequence_generator", "export", "lstm_jitable", "checkpoint_utils",
    "ema", "multihead_attention", "reproducibility",
)  # fmt: skip
N = "2"
SUBSTITUTED = "FAIRSEQ_SUITE_WITH_PHM"
"""Environment variable: 1 where the PHM models are in the place of fairseq's."""


def main(arguments=None):
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fairseq", type=Path, required=True, help="a clone")
    parser.add_argument("--tests", nargs="+", default=FILES, metavar="NAME")
    parser.add_argument("-k", default="", help="as pytest's")
    given = parser.parse_args(arguments)
    paths = [given.fairseq / "tests" / f"test_{name}.py" for name in given.tests]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    plain, phm = (run(given, substituted) for substituted in (False, True))
    lost = 0
    print(f"{'test':<75} {'plain':<8} PHM")
    for name, before in plain.items():
        after = phm.get(name, "missing")
        worse = before == "passed" != after
        lost += worse
        if before == "passed" or before != after:
            print(f"{name:<75} {before:<8} {after}{worse * '  <--'}")
    passed = list(plain.values()).count("passed")
    print(f"{passed} of {len(plain)} pass plain, {lost} of these fail with PHM layers")
    return 1 if lost or not passed else 0


def run(given, substituted):
    """Results of all tests: name -> passed, failed, error or skipped."""
    with tempfile.TemporaryDirectory() as folder:
        # Without the rest of the clone, which would hide the installed fairseq.
        os.symlink(given.fairseq.resolve() / "tests", f"{folder}/tests")
        paths = [str(ROOT), str(ROOT / "tests"), folder]
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "--junitxml", f"{folder}/results.xml", "-c", os.devnull,
            "--rootdir", folder,
            "-p", "fairseq_suite",
            *(["-k", given.k] if given.k else []),
            *(f"tests/test_{name}.py" for name in given.tests),
        ]  # fmt: skip
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            # fairseq by itself cannot read its checkpoints with torch 2.6 or later.
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
            SUBSTITUTED: str(int(substituted)),
        }
        done = subprocess.run(
            command, cwd=folder, env=env, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        print(done.stdout, file=sys.stderr)
        cases = ElementTree.parse(f"{folder}/results.xml").iter("testcase")
        return {
            f"{case.get('classname').rpartition('.')[2]}.{case.get('name')}": next(
                (
                    {"failure": "failed"}.get(child.tag, child.tag)
                    for child in case
                    if child.tag in ("failure", "error", "skipped")
                ),
                "passed",
            )
            for case in cases
        }


def pytest_configure():
    """Change the models of the tests: pytest reads this file as a plugin."""
    from fairseq import models, options

    substituted = os.environ[SUBSTITUTED] == "1"
    if substituted:
        _substitute_models()
    parse = options.parse_args_and_arch

    def parse_args_and_arch(parser, input_args=None, *others, **named):
        if input_args and "--arch" in input_args:
            input_args = list(input_args)
            place = input_args.index("--arch") + 1
            if "test_reproducibility" in os.environ.get("PYTEST_CURRENT_TEST", ""):
                arch = input_args[place].replace("fconv_", "transformer_")
                input_args[place] = arch
            arch = f"phm_{input_args[place]}"
            if substituted and arch in models.ARCH_MODEL_REGISTRY:
                input_args[place] = arch
                input_args += ["--phm-n", N]
        return parse(parser, input_args, *others, **named)

    options.parse_args_and_arch = parse_args_and_arch


def _substitute_models():
    """Put the PHM models in the place of fairseq's."""
    from fairseq.models import lstm, transformer

    import fairseq_phm

    def with_n(model):
        class WithN(model):
            @classmethod
            def build_model(cls, args, task):
                args.phm_n = int(N)
                return super().build_model(args, task)

        return WithN

    transformer.TransformerModel = with_n(fairseq_phm.PHMTransformerModel)
    lstm.LSTMModel = with_n(fairseq_phm.PHMLSTMModel)


def pytest_runtest_setup(item):
    """Give the attention of tests of attention PHM projections."""
    if os.environ[SUBSTITUTED] != "1":
        return
    from fairseq.modules import MultiheadAttention

    from fairseq_phm import PHMLinear
    from fairseq_phm.modules.attention import Attention

    init = _originals.setdefault("init", MultiheadAttention.__init__)

    def with_projections(self, *arguments, **options):
        init(self, *arguments, **options)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            dense = getattr(self, name)
            bias = dense.bias is not None
            sizes = dense.in_features, dense.out_features
            setattr(self, name, PHMLinear(*sizes, int(N), bias=bias))
        Attention.adopt(self)

    of_attention = "attention" in item.nodeid.lower()
    MultiheadAttention.__init__ = with_projections if of_attention else init


_originals = {}

if __name__ == "__main__":
    sys.exit(main())
