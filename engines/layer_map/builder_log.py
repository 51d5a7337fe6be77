"""The layers that a builder lists in its log, at profiling verbosity DETAILED and severity VERBOSE.

One message begins with `Layers:`, then a line a layer. TensorRT-RTX 1.7 writes `Datatype: Int8, Format: ...` and lists
constants; TensorRT 10 writes `Format/Datatype: Half`, and does not.
"""

from __future__ import annotations

import re

from engines.layer_map.layer import BuilderLayer, Tensor, data_type, metadata_nodes, moved_bytes

_LINE = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>|.*?\})\], "
    r"(?:Constants: \[(?P<constants>|.*?\})\], )?Outputs: \[(?P<outputs>|.*?\})\], "
    r"(?:.*?, )?TacticName: (?P<tactic>.*?), .*?Metadata: ?(?P<nodes>.*)$"
)
_TENSOR = re.compile(r"Dimensions: \[(?P<shape>[-\d,]*)\].*?Datatype: (?P<type>[^,}]*)")


def parse_layers(log: str) -> tuple[BuilderLayer, ...]:
    """Read the layers that a builder's log lists; other lines are passed over."""
    # Only "\n" ends a line: the separators between node names count as line ends to str.splitlines.
    matches = (_LINE.match(line) for line in log.split("\n"))
    return tuple(_layer(match) for match in matches if match)


def _layer(match: re.Match[str]) -> BuilderLayer:
    inputs, constants, outputs = (_tensors(match[part] or "") for part in ("inputs", "constants", "outputs"))
    return BuilderLayer(
        name=match["name"],
        kind=match["kind"],
        inputs=tuple(tensor.type for tensor in inputs),
        constants=tuple(tensor.type for tensor in constants),
        outputs=tuple(tensor.type for tensor in outputs),
        nodes=metadata_nodes(match["nodes"]),
        tactic=match["tactic"],
        moved_bytes=moved_bytes([*inputs, *constants, *outputs]),
    )


def _tensors(text: str) -> list[Tensor]:
    return [
        Tensor(data_type(match["type"]), tuple(int(size) for size in match["shape"].split(",") if size))
        for match in _TENSOR.finditer(text)
    ]
