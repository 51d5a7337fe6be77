"""Multiply-accumulates in the place of times: where no target is at hand, what is quantized counts as saved."""

from __future__ import annotations

from avcompress.search.assignment import COMPUTED, HALVES
from avcompress.search.latency.source import Subject
from avcompress.search.latency.table import Conversion, PrecisionTable, network_structure
from avcompress.spec import Precision


class Counted:
    """Of each layer its part of the network's multiply-accumulates, in per cent; half of it in 16 bits, 0 quantized."""

    def table(self, subject: Subject) -> PrecisionTable:
        """Count; conversions cost nothing."""
        total = sum(group.macs for group in subject.layout.groups) or 1
        shares = {
            layer: 100 * group.macs / total / len(group.layers)
            for group in subject.layout.groups
            for layer in group.layers
        }
        return PrecisionTable(
            network=network_structure(subject.model),
            estimate=True,
            machine="any machine: multiply-accumulates that are not quantized, in per cent",
            layers_ms={
                layer: {each: share * _counts(each) for each in subject.choices[group]}
                for layer, group in subject.layout.group_of.items()
                for share in (shares[layer],)
            },
            others_ms=0.0,
            conversions=tuple(
                Conversion(of=of, to=to, call_ms=0.0, million_ms=0.0)
                for of in subject.precisions
                for to in subject.precisions
                if of != to
            ),
        )


def _counts(precision: Precision) -> float:
    if precision in COMPUTED:
        return 0.0
    return 0.5 if precision in HALVES else 1.0
