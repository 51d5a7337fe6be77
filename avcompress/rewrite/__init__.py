"""Operators written as others that engines compute faster: the same function, or nearly."""

from avcompress.rewrite.apply import Means, Tried, rewrite
from avcompress.rewrite.rules import APPROXIMATE, RULES

__all__ = ["APPROXIMATE", "RULES", "Means", "Tried", "rewrite"]
