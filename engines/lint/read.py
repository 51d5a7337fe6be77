"""Reading an ONNX file as it is, quantized or not, without loading the weights beside it; and writing it."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import external_data_helper, inliner, numpy_helper

from avcompress.spec import ModelError
from engines.lint.view import read_array
from engines.onnx_graph import first_line
from engines.onnx_weights import stored_tensors

_LARGEST_FILE = 3 * 2**29  # of the 2 GiB that a protobuf may have


def read_model(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file and inline its functions; nothing else is changed.

    Raises ModelError in one line for what is no ONNX file, or lacks the file of its weights.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: expected an ONNX file, got nothing of that name; check the path") from error
    except IsADirectoryError as error:
        raise ModelError(f"{path}: expected an ONNX file, got a folder; name the file in it") from error
    except OSError as error:
        raise ModelError(f"{path}: expected a readable file, got {error.strerror}; check its permissions") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(
            f"{path}: expected an ONNX file, got something else or a truncated one; export or download it again"
        ) from error
    if not content or not model.HasField("graph"):
        raise ModelError(f"{path}: expected an ONNX file, got one without a graph; export or download it again")
    _refuse_missing_weights(model, path)
    return _inlined(model, path)


def _refuse_missing_weights(model: onnx.ModelProto, path: Path) -> None:
    for tensor in stored_tensors(model):
        location = external_data_helper.ExternalDataInfo(tensor).location
        if not (path.parent / location).is_file():
            raise ModelError(
                f"{path}: expected the weights file {location!r} beside it, got nothing of that name; "
                "copy both together"
            )


def to_bytes(model: onnx.ModelProto, source: Path, out: Path) -> bytes:
    """A model that was read from `source`, as the content of the file `out`.

    Weights that lie beside `source` stay there when `out` lies there too; else they come along.
    Raises ModelError when they are too many for one file.
    """
    outside = stored_tensors(model)
    if not outside or source.resolve().parent == out.resolve().parent:
        return bytes(model.SerializeToString())
    size = sum(external_data_helper.ExternalDataInfo(tensor).length or 0 for tensor in outside)
    if size > _LARGEST_FILE:
        raise ModelError(
            f"{out}: expected a file beside {source}, whose weights of {size / 2**30:.1f} GB lie there, got another "
            "folder; write it there"
        )
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for tensor in stored_tensors(whole):
        values = read_array(tensor, source.parent)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return bytes(whole.SerializeToString())


def _inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path}: expected functions that can be inlined, got: {first_line(error)}; export it again"
        ) from error
