"""fairseq tasks; importing this package registers them."""

from ..errors import DataError
from .classification import TSVClassificationConfig, TSVClassificationTask

__all__ = ["DataError", "TSVClassificationConfig", "TSVClassificationTask"]
