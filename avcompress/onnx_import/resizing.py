"""Resize in every mode of ONNX, and GridSample.

Source: ONNX Resize; coordinates in float32 as ONNX Runtime computes them, since nearest neighbours depend on it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avcompress.onnx_import.operand import Call, OnnxNode, normalized

Floats = NDArray[np.float32]
Axis = tuple[int, int, float]
"""One dimension that changes: its index, its new size, its scale."""

Rule = tuple[str | float | bool, ...]
_TORCH_CUBIC = -0.75


def resize(x: Tensor, axes: tuple[Axis, ...], mode: str, coordinates: str, rule: Rule) -> Tensor:
    """Interpolate along one dimension after the other.

    Args:
        x: any shape.
        axes: the dimensions that change.
        mode: nearest, linear or cubic.
        coordinates: the transformation from new to old positions.
        rule: of nearest the rounding; of the others the cubic coefficient, whether weights outside are dropped, and
            whether the filter widens as the image shrinks (antialias).
    """
    for axis, size, scale in axes:
        old = x.shape[axis]
        positions = _positions(size, old, scale, coordinates)
        if mode == "nearest":
            taps, weights = _nearest(positions, str(rule[0])), None
        else:
            inside = positions if mode == "cubic" or rule[2] else np.clip(positions, 0, old - 1)
            taps, weights = _filtered(inside, mode, min(scale, 1.0) if rule[2] else 1.0, float(rule[0]))
            weights = _without_outside(taps, weights, old) if rule[1] else weights
        x = _interpolated(x, axis, np.clip(taps, 0, old - 1), weights)
    return x


def _interpolated(x: Tensor, axis: int, taps: NDArray[np.int64], weights: Floats | None) -> Tensor:
    """The weighted sum of a few old values for each new one; `taps` and `weights` are (taps, size)."""
    picked = [torch.index_select(x, axis, torch.from_numpy(row).to(x.device)) for row in taps]
    if weights is None:
        return picked[0]
    shape = [1] * x.dim()
    shape[axis] = -1
    parts = [v * torch.from_numpy(w).to(x).reshape(shape) for v, w in zip(picked, weights, strict=True)]
    return torch.stack(parts).sum(0)


def _positions(size: int, old: int, scale: float, coordinates: str) -> Floats:
    """Where each new position lies among the old ones."""
    new, s = np.arange(size, dtype=np.float32), np.float32(scale)
    half = np.float32(0.5)
    match coordinates:
        case "asymmetric":
            found = new / s
        case "align_corners":
            found = new * np.float32(old - 1) / np.float32(max(size - 1, 1))
        case "pytorch_half_pixel" if size == 1:
            found = np.zeros_like(new)
        case "half_pixel_symmetric":
            adjusted = np.float32(size) / (s * np.float32(old))
            offset = np.float32(old / 2) * (np.float32(1) - adjusted)
            found = np.float64(offset) + (new.astype(np.float64) + 0.5) / np.float64(s) - 0.5
        case _:
            found = (new + half) / s - half
    positions: Floats = found.astype(np.float32)
    return positions


def _nearest(positions: Floats, rounding: str) -> NDArray[np.int64]:
    match rounding:
        case "floor":
            found = np.floor(positions)
        case "ceil":
            found = np.ceil(positions)
        case "round_prefer_ceil":
            found = np.floor(positions + np.float32(0.5))
        case _:
            found = np.ceil(positions - np.float32(0.5))
    return found.astype(np.int64)[None]


def _filtered(positions: Floats, mode: str, scale: float, a: float) -> tuple[NDArray[np.int64], Floats]:
    """The old positions under a filter that is 1 / scale times as wide as usual, and their weights."""
    reach = int(np.floor((1 if mode == "linear" else 2) / scale))
    low = np.floor(positions)
    taps = low + np.arange(-reach, reach + 2)[:, None] if scale < 1 else low + np.arange(1 - reach, reach + 1)[:, None]
    distance = np.abs(positions.astype(np.float64) - taps) * scale
    weights = np.clip(1 - distance, 0, 1) if mode == "linear" else _cubic(distance, a)
    weights = weights / weights.sum(0) if scale < 1 else weights
    return taps.astype(np.int64), weights.astype(np.float32)


def _cubic(t: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    """Source: Keys, Cubic convolution interpolation for digital image processing, 1981."""
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    weights: NDArray[np.float64] = np.where(t <= 1, near, np.where(t < 2, far, 0.0))
    return weights


def _without_outside(taps: NDArray[np.int64], weights: Floats, old: int) -> Floats:
    kept = np.where((taps < 0) | (taps >= old), np.float32(0), weights)
    shares: Floats = (kept / kept.sum(0)).astype(np.float32)
    return shares


def interpolate(x: Tensor, size: tuple[int, ...], mode: str, align_corners: bool | None) -> Tensor:
    """The cases that torch computes in the same way, and faster."""
    return F.interpolate(x, size, mode=mode, align_corners=align_corners)


# --- how nodes become calls


def _lower_resize(node: OnnxNode) -> Call:
    mode = "linear" if node.attribute("mode", "nearest") == "bilinear" else node.attribute("mode", "nearest")
    coordinates = node.attribute("coordinate_transformation_mode", "half_pixel")
    if node.kind == "Upsample":
        coordinates = "asymmetric"
    if coordinates == "tf_crop_and_resize":
        raise node.error("a Resize of the whole map", coordinates, "crop with a Slice before it")
    axes = _changed(node)
    fast = _in_torch(node, axes, mode, coordinates)
    if fast is not None:
        return fast
    return Call(resize, (node.x, axes, mode, coordinates, _rule(node, mode)))


def _rule(node: OnnxNode, mode: str) -> Rule:
    if mode == "nearest":
        return (node.attribute("nearest_mode", "floor" if node.kind == "Upsample" else "round_prefer_floor"),)
    flags = (bool(node.attribute(name, 0)) for name in ("exclude_outside", "antialias"))
    return (float(node.attribute("cubic_coeff_a", -0.75)), *flags)


def _changed(node: OnnxNode) -> tuple[Axis, ...]:
    """The dimensions whose size changes; scales win over sizes, as they say more."""
    shape = node.x.shape
    axes = normalized(node.attribute("axes", range(len(shape))), len(shape))
    given = node.constant(1 if node.kind == "Upsample" or node.opset < 11 else 2)
    if given is not None and given.size:
        scales = [float(v) for v in given.reshape(-1)]
        sizes = [int(np.floor(np.float32(shape[a]) * np.float32(s))) for a, s in zip(axes, scales, strict=True)]
    else:
        if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise node.error("sizes that are stretched to", "another policy", "give the scales instead")
        sizes = node.integers(3) or []
        scales = [size / shape[a] for a, size in zip(axes, sizes, strict=True)]
    changes = list(zip(axes, sizes, scales, strict=True))
    if all(size == shape[a] for a, size, _ in changes):  # ONNX Runtime copies then, whatever the scales
        return ()
    return tuple((a, size, scale) for a, size, scale in changes if size != shape[a] or scale != 1)


def _in_torch(node: OnnxNode, axes: tuple[Axis, ...], mode: str, coordinates: str) -> Call | None:
    """F.interpolate where it is the same; it resizes all dimensions from the third on."""
    shape = node.x.shape
    exact = all(abs(size - shape[a] * scale) < 1e-6 * size for a, size, scale in axes)
    if not axes or not exact or min(a for a, _, _ in axes) < 2 or node.x.rank not in {3, 4, 5}:
        return None
    sizes = list(shape[2:])
    for a, size, _ in axes:
        sizes[a - 2] = size
    name = _torch_mode(node, mode, coordinates, len(sizes))
    if name is None or node.attribute("antialias", 0):
        return None
    if coordinates == "pytorch_half_pixel" and 1 in sizes:  # one pixel: the first for ONNX, the middle for torch
        return None
    align = None if name == "nearest" else coordinates == "align_corners"
    return Call(interpolate, (node.x, tuple(sizes), name, align))


def _torch_mode(node: OnnxNode, mode: str, coordinates: str, dimensions: int) -> str | None:
    smooth = coordinates in {"half_pixel", "pytorch_half_pixel", "align_corners"}
    match mode:
        case "nearest":
            floored = node.kind == "Upsample" or node.attribute("nearest_mode", "round_prefer_floor") == "floor"
            return "nearest" if coordinates == "asymmetric" and floored else None
        case "linear":
            return ("linear", "bilinear", "trilinear")[dimensions - 1] if smooth else None
        case _:
            same = not node.attribute("exclude_outside", 0) and node.attribute("cubic_coeff_a", -0.75) == _TORCH_CUBIC
            return "bicubic" if smooth and same and dimensions == 2 else None


def _lower_grid_sample(node: OnnxNode) -> Call:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(node.attribute("mode", "bilinear"))
    mode = mode or node.attribute("mode", "bilinear")
    padding = node.attribute("padding_mode", "zeros")
    return Call(F.grid_sample, (node.x, node.required(1), mode, padding, bool(node.attribute("align_corners", 0))))


LOWERINGS: dict[str, Callable[[OnnxNode], Call]] = {
    "GridSample": _lower_grid_sample,
    "Resize": _lower_resize,
    "Upsample": _lower_resize,
}
