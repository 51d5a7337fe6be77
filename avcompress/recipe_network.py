"""What a recipe says of a network: an ONNX file, or a factory of a torch module."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from avcompress.frozen import Model


class OnnxModel(Model):
    """An ONNX file."""

    onnx: str = Field(description="path of the ONNX file")
    output: str | None = Field(
        None,
        description="the output to decode, where there are several: the others are cut off; or a tensor inside, as "
        "before post-processing in the graph",
    )


class TorchModel(Model):
    """A torch.nn.Module built by the user's own code."""

    factory: str = Field(pattern=r"^[\w.]+:\w+$", description="module:function that returns the module")
    import_from: str | None = Field(None, description="folder to import the module from, relative to the recipe")
    weights: str | None = Field(None, description="state dict: .safetensors, or .pth read with weights_only=True")
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the factory")
    output: str | None = Field(
        None,
        description="the output to decode, where there are several: the key of a returned mapping, "
        "`output_0` for the first of a returned sequence; the others are cut off",
    )


def network_kind(value: Any) -> str:
    """A network is an ONNX file or built by a factory: the key that is there decides."""
    has_file = "onnx" in value if isinstance(value, dict) else isinstance(value, OnnxModel)
    return "file" if has_file else "module"


Network = Annotated[
    Annotated[OnnxModel, Tag("file")] | Annotated[TorchModel, Tag("module")], Discriminator(network_kind)
]
