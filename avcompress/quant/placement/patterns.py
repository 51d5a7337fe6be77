"""The patterns that decide how a layer is quantized: heads, gates, decoding, residual additions.

Each is a question to a Links: a GraphView with its look-ups. None of them depends on what a tensor or an operator is
called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from avcompress.quant.placement.view import GraphView, Op
from avcompress.spec import WEIGHTED

_ACTIVATIONS = frozenset(
    {"BatchNormalization", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu"}
    | {"Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu"}
)
_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})
_ADDITIONS = frozenset({"Add", "Sum"})
_NO_VALUES = frozenset({"Shape", "Size"})  # they pass on a tensor's shape, not what was computed
_GLOBAL_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool"})
_MOVES_FIRST_INPUT = frozenset(
    {
        "DepthToSpace",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "SpaceToDepth",
    }
    | {"Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
_PARTS = frozenset({"Gather", "Slice", "Split"})
_MOVES_IF_EXACT = frozenset({"Pad", "Resize", "Upsample"})


@dataclass(frozen=True)
class Links:
    """A GraphView, who produces and who uses each of its tensors, and which depend on shapes alone."""

    view: GraphView
    producer: Mapping[str, Op]
    users: Mapping[str, tuple[Op, ...]]
    sizes: frozenset[str] = frozenset()

    def data(self, op: Op) -> tuple[str, ...]:
        """The inputs whose values an operator computes from: not constants, nor shapes of other tensors."""
        if op.kind in _NO_VALUES:
            return ()
        return tuple(t for t in op.inputs if t and t not in self.view.constants and t not in self.sizes)


def link(view: GraphView) -> Links:
    """Find the producer and the users of every tensor; an operator is one for each input that it computes from."""
    users: dict[str, list[Op]] = {}
    for op in view.ops:
        for tensor in op.inputs if op.kind not in _NO_VALUES else ():
            users.setdefault(tensor, []).append(op)
    return Links(
        view=view,
        producer={tensor: op for op in view.ops for tensor in op.outputs if tensor},
        users={tensor: tuple(ops) for tensor, ops in users.items()},
        sizes=_sizes(view),
    )


def _sizes(view: GraphView) -> frozenset[str]:
    """The tensors that are computed from shapes and constants alone, as the target of an Expand may be."""
    found: set[str] = set()
    for op in view.ops:
        data = [tensor for tensor in op.inputs if tensor and tensor not in view.constants]
        if op.kind in _NO_VALUES or (data and found.issuperset(data)):
            found.update(op.outputs)
    return frozenset(found)


# --- what passes values on


def moved(op: Op, links: Links) -> tuple[str, ...]:
    """The inputs whose values an operator only moves, selects or repeats, beside zeros: Q/DQ commutes with it."""
    if op.kind == "Concat":
        return links.data(op)
    if op.kind in _MOVES_FIRST_INPUT or (op.kind in _MOVES_IF_EXACT and op.moves):
        return tuple(tensor for tensor in op.inputs[:1] if tensor in links.data(op))
    return ()


def only_input(op: Op, links: Links) -> str | None:
    """The one input that is not constant, of an activation or of arithmetic with constants."""
    data = links.data(op)
    return data[0] if len(data) == 1 and op.kind in _ACTIVATIONS | _ARITHMETIC else None


def activated(op: Op, links: Links) -> str | None:
    """The tensor that an activation is applied to; None if the operator is none, or joins two tensors."""
    alone = only_input(op, links)
    if alone is not None or op.kind != "Mul" or len(op.inputs) != 2:
        return alone
    left, right = op.inputs
    if right in _chain(left, links):
        return right
    return left if left in _chain(right, links) else None


def _chain(tensor: str, links: Links) -> Iterator[str]:
    """The tensors that this one is an element-wise function of: x * sigmoid(x) reaches x from its gate."""
    step: str | None = tensor
    while step is not None:
        yield step
        op = links.producer.get(step)
        step = only_input(op, links) if op else None


def distances(tensor: str, links: Links) -> dict[str, int]:
    """The number of operators between this tensor and each one it depends on."""
    found = {tensor: 0}
    queue = [tensor]
    for reached in queue:  # grows while it is walked: breadth first
        op = links.producer.get(reached)
        for source in links.data(op) if op else ():
            if source not in found:
                found[source] = found[reached] + 1
                queue.append(source)
    return found


# --- layers with a role of their own


def heads(links: Links) -> frozenset[str]:
    """The weighted operators with no other one between them and a graph output.

    The decoding of boxes belongs to the output, and the skip of a residual block is no way to it: what is added to a
    block before the last leads through the last.
    """
    found: set[str] = set()
    seen: set[str] = set()
    stack = list(links.view.outputs)
    while stack:
        tensor = stack.pop()
        op = links.producer.get(tensor)
        if tensor in seen or op is None or op.kind in _NO_VALUES:
            continue
        seen.add(tensor)
        if op.kind in WEIGHTED and not decodes(op, links):
            found.add(op.name)
        else:
            stack.extend(_towards_heads(op, links))
    return frozenset(found)


def _towards_heads(op: Op, links: Links) -> tuple[str, ...]:
    fused = fused_input(op, links)
    if fused is not None and op.inputs[1 - fused] in distances(op.inputs[fused], links):
        return (op.inputs[fused],)
    return links.data(op)


def decodes(op: Op, links: Links) -> bool:
    """Whether this layer takes the mean of a distribution, as box decoding does (DFL): a constant weight on a softmax.

    Source: Generalized Focal Loss, arXiv:2006.04388.
    """
    if op.kind not in WEIGHTED or op.weight is None:
        return False
    source = links.producer.get(op.inputs[0])
    while source is not None and len(moved(source, links)) == 1:
        source = links.producer.get(moved(source, links)[0])
    return source is not None and source.kind == "Softmax"


def gates(links: Links) -> frozenset[str]:
    """The weighted operators of squeeze-and-excite blocks: between the mean of each channel and its multiplication.

    Source: Squeeze-and-Excitation Networks, arXiv:1709.01507.
    """
    found: set[str] = set()
    for op in links.view.ops:
        data = links.data(op)
        if op.kind == "Mul" and len(set(data)) == 2 and activated(op, links) is None:
            for gate, scaled in (data, data[::-1]):
                found.update(_gate_layers(gate, scaled, links))
    return frozenset(found)


def _gate_layers(gate: str, scaled: str, links: Links) -> frozenset[str]:
    """The weighted operators on every way from `gate` back to global pools of what `scaled` is made from; or none."""
    layers: set[str] = set()
    pooled: set[str] = set()
    seen = {gate}
    queue = [gate]
    for tensor in queue:  # grows while it is walked
        op = links.producer.get(tensor)
        if op is None or not _in_a_gate(op, links):
            return frozenset()
        if op.kind in _GLOBAL_POOLS:
            pooled.add(op.inputs[0])
            continue
        if op.kind in WEIGHTED:
            layers.add(op.name)
        new = [source for source in links.data(op) if source not in seen]
        seen.update(new)
        queue.extend(new)
    return frozenset(layers) if layers and _made_from(scaled, pooled, links) else frozenset()


def _made_from(tensor: str, sources: set[str], links: Links) -> bool:
    """Whether all of `sources` lead to this tensor by ways on which its positions stay apart."""
    seen = {tensor}
    queue = [tensor]
    for reached in queue:  # grows while it is walked
        op = links.producer.get(reached)
        new = [t for t in links.data(op) if t not in seen] if op and op.kind not in _GLOBAL_POOLS else []
        seen.update(new)
        queue.extend(new)
    return sources <= seen


def _in_a_gate(op: Op, links: Links) -> bool:
    weighted = op.kind in WEIGHTED and op.weight is not None
    return weighted or op.kind in _GLOBAL_POOLS | _ACTIVATIONS | _ARITHMETIC or bool(moved(op, links))


def splits_attention(op: Op, links: Links) -> bool:
    """Whether a matrix product's output is split into the operands of attention: query, key and value in one.

    Two parts of it at least come to a product of two activations, moved and scaled at most.
    """
    if op.kind not in {"Gemm", "MatMul"} or op.weight is None:
        return False
    operands: set[str] = set()
    seen: set[tuple[str, str]] = set()
    stack = [(op.outputs[0], "")]
    while stack:
        tensor, part = stack.pop()
        for user in links.users.get(tensor, ()) if (tensor, part) not in seen else ():
            if user.kind in WEIGHTED and user.weight is None:
                operands.add(part)
            elif user.kind in _PARTS:
                stack += [(output, part or output) for output in user.outputs]
            elif tensor in moved(user, links) or (user.kind in _ARITHMETIC and only_input(user, links) == tensor):
                stack += [(output, part) for output in user.outputs]
        seen.add((tensor, part))
    return len(operands - {""}) > 1


def is_first(op: Op, links: Links) -> bool:
    """Whether no weighted operator comes before this one."""
    producers = (links.producer.get(tensor) for tensor in distances(op.inputs[0], links))
    return not any(before is not None and before.kind in WEIGHTED for before in producers)


# --- residual additions


def fused_input(op: Op, links: Links, int8: frozenset[str] | None = None) -> int | None:
    """The input of an addition that its convolution computes along with it; None when there is none.

    With `int8`, only convolutions of these names count. Where both inputs come straight from convolutions, as with
    a projected shortcut, the skip is the shorter way from where the two parted.

    Source: NVIDIA Model Optimizer, onnx/quantization/graph_utils.py, `build_non_residual_input_map`.
    """
    if op.kind not in _ADDITIONS or len(set(op.inputs)) != 2 or len(links.data(op)) != 2:
        return None
    backbones = [_backbone(tensor, links, int8) for tensor in op.inputs]
    if backbones[0] == backbones[1]:  # neither, or both are activations of one convolution
        return None
    own = [i for i in (0, 1) if backbones[i] is not None and _is_private(op.inputs[i], links)]
    return own[0] if len(own) == 1 else _longer(op, links) if own else None


def _longer(add: Op, links: Links) -> int:
    first, second = (distances(tensor, links) for tensor in add.inputs)
    common = first.keys() & second.keys()
    if not common:
        return int(len(second) > len(first))
    mentions = [tensor for op in links.view.ops for tensor in (*op.inputs, *op.outputs)]
    order = {tensor: i for i, tensor in reversed(list(enumerate(mentions)))}
    # The last one that is computed; where the two share inputs of the network only, the last of those.
    parted = max(common, key=lambda tensor: (tensor in links.producer, order[tensor]))
    return 1 if second[parted] > first[parted] else 0


def _backbone(tensor: str, links: Links, int8: frozenset[str] | None) -> str | None:
    """The convolution whose output, normalized and activated at most, is this tensor."""
    step: str | None = tensor
    while step is not None:
        op = links.producer.get(step)
        if op is None:
            return None
        if op.kind == "Conv" and (int8 is None or op.name in int8):
            return op.name
        step = activated(op, links)
    return None


def _is_private(tensor: str, links: Links) -> bool:
    """Whether nothing but one addition uses a convolution's activated output, or what it is made from.

    What is needed elsewhere too has to be written by the convolution before anything is added.
    """
    inside = _kernel(tensor, links)
    names = {op.name for op in inside}
    return len(links.users[tensor]) == 1 and all(
        value not in links.view.outputs
        and (value == tensor or all(u.name in names for u in links.users.get(value, ())))
        for op in inside
        for value in op.outputs
    )


def _kernel(tensor: str, links: Links) -> tuple[Op, ...]:
    """The operators from this tensor back to the convolution that it is the activated output of."""
    found: dict[str, Op] = {}
    queue = [tensor]
    for reached in queue:  # grows while it is walked
        op = links.producer[reached]
        found[op.name] = op
        if op.kind not in WEIGHTED:
            queue.extend(source for source in links.data(op) if links.producer[source].name not in found)
    return tuple(found.values())
