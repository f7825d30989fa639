"""Installs the plugin; fairseq_phm/README.md says how to install fairseq."""

from setuptools import find_packages, setup

setup(
    name="fairseq_phm",
    version="0.1.0",
    description="Parameterized hypercomplex multiplication (PHM) layers for fairseq",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.9",
    packages=find_packages(include=["fairseq_phm", "fairseq_phm.*"]),
    entry_points={"console_scripts": ["fairseq-phm = fairseq_phm.commands:main"]},
    install_requires=["numpy", "torch>=2.0", "tqdm"],
    extras_require={
        "export": [
            "ctranslate2",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "safetensors",
        ],
        "fairseq": ["fairseq-fixed==0.12.3.1", "sacrebleu", "sentencepiece"],
        "recipes": [
            "babel",
            "filelock",
            "matplotlib",
            "nltk",
            "num2words",
            "requests",
            "sacrebleu",
            "scipy",
            "sentencepiece",
            "tabulate",
            "tomli; python_version < '3.11'",
        ],
        "slurm": ["hydra-submitit-launcher"],
        "test": [
            "hypothesis",
            "pytest",
            "pytest-xdist",
            "ruff",
        ],
    },
)
