"""Low-rank factorization: layers become products of smaller ones, where that is measured to be faster."""

from avcompress.lowrank.factorize import factorize
from avcompress.lowrank.values import Decomposition, Factorized

__all__ = ["Decomposition", "Factorized", "factorize"]
