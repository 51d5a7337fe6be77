"""The rules by the names that recipes give them, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from avcompress.recipe_rewrite import RuleName
from avcompress.rewrite.full_rank import full_rank
from avcompress.rewrite.hard_swish import hard_swish
from avcompress.rewrite.strided_conv import strided_conv
from avcompress.rewrite.values import Rule

RULES: Mapping[RuleName, Rule] = MappingProxyType(
    {"full_rank": full_rank, "strided_conv": strided_conv, "hard_swish": hard_swish}
)
APPROXIMATE: frozenset[RuleName] = frozenset({"hard_swish"})
"""After these the network does not compute quite the same."""
