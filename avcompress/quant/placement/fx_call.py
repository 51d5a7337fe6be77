"""Calls of torch in one form: a module reads like the function that it stands for, its parameters like arguments."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from avcompress.quant.placement.fx_sketch import Constant, is_tensor

_NUMBERED = ("1d", "2d", "3d")


@dataclass(frozen=True, eq=False)
class Call:
    """One call.

    Attributes:
        function: the name of the torch function, whatever its spelling: `relu_`, `F.relu`, `x.relu()`, nn.ReLU are all
            `relu`.
        args, kwargs: fx nodes, Constants, and plain values.
        in_place: the first argument holds the result from now on.
        extra_padding: a convolution that pads by other values than zero.
    """

    node: fx.Node
    function: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    in_place: bool = False
    extra_padding: bool = False

    def get(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    def first(self, count: int) -> list[Any]:
        """The first operands, named or not."""
        return [*self.args, *self.kwargs.values()][:count]

    def tensors(self) -> list[Any]:
        """Every tensor among the arguments."""
        found: list[Any] = []
        fx.node.map_arg((self.args, self.kwargs), found.append)
        return [item for item in found if is_tensor(item)]


def read_call(node: fx.Node, module: fx.GraphModule) -> Call:
    """What an fx node calls."""
    match node.op:
        case "call_module":
            return _read_module(node, module.get_submodule(str(node.target)))
        case "call_method":
            name = str(node.target)
        case _:
            name = str(getattr(node.target, "__name__", node.target))
            if node.target is getattr and len(node.args) > 1:
                name = str(node.args[1])
    plain = name.rstrip("_")
    in_place = plain != name or bool(node.kwargs.get("inplace")) or node.target in _IN_PLACE
    args, kwargs = _spread(plain, node.args, dict(node.kwargs))
    return Call(node, _SPELLINGS.get(plain, plain), args, kwargs, in_place)


def _spread(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The first argument by position, whatever the call calls it."""
    if args or name in {"cat", "stack"}:
        return args, kwargs
    for key in ("input", "x", "self", "query"):
        if key in kwargs:
            return (kwargs.pop(key),), kwargs
    return args, kwargs


_IN_PLACE = frozenset({operator.iadd, operator.isub, operator.imul, operator.itruediv})
_SPELLINGS = {"hardswish_": "hardswish", "upsample": "interpolate", "special_erf": "erf", "clip": "clamp"}


def _read_module(node: fx.Node, module: nn.Module) -> Call:
    kind = type(module).__name__
    function, names = _MODULES.get(kind, (kind, ()))
    attributes = {name: getattr(module, name) for name in names}
    named = {key: _constant(f"{node.target}.{key}", value) for key, value in attributes.items()}
    in_place = bool(getattr(module, "inplace", False))
    extra = getattr(module, "padding_mode", "zeros") != "zeros"
    function, args, named = _adapted(function, node.args, named)
    return Call(node, function, args, {**named, **node.kwargs}, in_place, extra)


def _constant(path: str, value: Any) -> Any:
    return Constant(path, value) if isinstance(value, Tensor) else value


def _adapted(
    function: str, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The few modules whose arguments differ from the function's."""
    match function:
        case "constant_pad":
            return "pad", args, {"mode": "constant", **named}
        case "reflect" | "replicate" | "circular":
            return "pad", args, {"mode": function}
        case "prelu":
            return function, (*args, named["weight"]), {}
        case _:
            return function, args, named


_CONV = ("weight", "bias", "groups")
_NORM = ("weight", "bias", "running_mean", "running_var")
_SIMPLE = {
    "CELU": "celu",
    "Dropout": "dropout",
    "ELU": "elu",
    "GLU": "glu",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
    "Hardtanh": "hardtanh",
    "Identity": "identity",
    "LayerNorm": "layer_norm",
    "LeakyReLU": "leaky_relu",
    "LocalResponseNorm": "local_response_norm",
    "LogSoftmax": "log_softmax",
    "Mish": "mish",
    "PixelShuffle": "pixel_shuffle",
    "ReLU": "relu",
    "ReLU6": "relu6",
    "SELU": "selu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
    "Unflatten": "unflatten",
}
_MODULES: dict[str, tuple[str, tuple[str, ...]]] = {
    **{kind: (name, ()) for kind, name in _SIMPLE.items()},
    **{f"Conv{n}": (f"conv{n}", _CONV) for n in _NUMBERED},
    **{f"ConvTranspose{n}": (f"conv_transpose{n}", _CONV) for n in _NUMBERED},
    **{f"BatchNorm{n}": ("batch_norm", _NORM) for n in _NUMBERED},
    **{f"InstanceNorm{n}": ("instance_norm", ()) for n in _NUMBERED},
    **{f"MaxPool{n}": (f"max_pool{n}", ("kernel_size",)) for n in _NUMBERED},
    **{f"AvgPool{n}": (f"avg_pool{n}", ("kernel_size",)) for n in _NUMBERED},
    **{f"Adaptive{k}Pool{n}": (f"adaptive_{k.lower()}_pool{n}", ()) for k in ("Avg", "Max") for n in _NUMBERED},
    **{f"Dropout{n}": ("dropout", ()) for n in _NUMBERED},
    **{f"ConstantPad{n}": ("constant_pad", ("value",)) for n in _NUMBERED},
    **{f"ZeroPad{n}": ("constant_pad", ()) for n in _NUMBERED},
    **{f"ReflectionPad{n}": ("reflect", ()) for n in _NUMBERED},
    **{f"ReplicationPad{n}": ("replicate", ()) for n in _NUMBERED},
    **{f"CircularPad{n}": ("circular", ()) for n in _NUMBERED},
    "Flatten": ("flatten", ("start_dim", "end_dim")),
    "GELU": ("gelu", ("approximate",)),
    "GroupNorm": ("group_norm", ("weight", "bias")),
    "Linear": ("linear", ("weight", "bias")),
    "PReLU": ("prelu", ("weight",)),
    "SyncBatchNorm": ("batch_norm", _NORM),
    "Upsample": ("interpolate", ("mode",)),
    "UpsamplingBilinear2d": ("interpolate", ("mode",)),
    "UpsamplingNearest2d": ("interpolate", ("mode",)),
}
