"""What of a contract can be judged where not all that a run has is at hand."""

from __future__ import annotations

from collections.abc import Collection

from avcompress.contract import Contract
from avcompress.spec import RecipeError


def judgeable(contract: Contract, engines: Collection[str] | None, layers: bool) -> tuple[Contract, tuple[str, ...]]:
    """The terms that can be judged, and a note on each that is left out; raises RecipeError where none can.

    Args:
        contract: all terms.
        engines: those that are measured; deadlines of others are left out. None: of a whole run, none is left out.
        layers: whether the network is at hand, with its layers.
    """
    latency = tuple(term for term in contract.latency if engines is None or term.engine in engines)
    others = dict.fromkeys(term.engine for term in contract.latency if term not in latency)
    left_out = [f"deadlines on {engine}" for engine in others]
    if contract.drift and not layers:
        left_out.append("error by layer (drift)")
    if contract.int8 and not layers:
        left_out.append("the share of INT8")
    drift, int8 = (contract.drift, contract.int8) if layers else (None, None)
    if not (contract.accuracy or latency or drift or int8):
        raise RecipeError(
            f"contract: expected a term that can be judged here, got only {', '.join(left_out)}; give what was built"
        )
    kept = contract.model_copy(update={"latency": latency, "drift": drift, "int8": int8})
    return kept, tuple(f"not judged here: {what}" for what in left_out)
