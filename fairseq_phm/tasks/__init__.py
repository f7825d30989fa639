"""fairseq tasks; importing this package registers them."""

from .classification import TSVClassificationConfig, TSVClassificationTask
from .tsv import DataError

__all__ = ["DataError", "TSVClassificationConfig", "TSVClassificationTask"]
