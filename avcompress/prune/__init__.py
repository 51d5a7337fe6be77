"""Structured pruning: which channels go together, and the network without some of them."""

from avcompress.prune.groups import Channel, Coupling, Fixed, Group, Place, Removed, channel_groups
from avcompress.prune.masking import masked
from avcompress.prune.slicing import without
from avcompress.structure import load_structure, save_structure

__all__ = [
    "Channel",
    "Coupling",
    "Fixed",
    "Group",
    "Place",
    "Removed",
    "channel_groups",
    "load_structure",
    "masked",
    "save_structure",
    "without",
]
