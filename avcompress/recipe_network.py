"""What a recipe says of a network: an ONNX file, a factory of a torch module, or one that was made smaller."""

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


class SavedModel(Model):
    """A network that was made smaller, as a run leaves it in its folder `smaller`: structure.json and its weights."""

    structure: str = Field(description="the folder")
    output: str | None = Field(
        None, description="the output to decode, where there are several: the others are cut off"
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
    """A network is an ONNX file, a saved one or built by a factory: the key that is there decides."""
    keys: Any = value if isinstance(value, dict) else type(value).model_fields if isinstance(value, Model) else ()
    return "file" if "onnx" in keys else "saved" if "structure" in keys else "module"


Network = Annotated[
    Annotated[OnnxModel, Tag("file")] | Annotated[SavedModel, Tag("saved")] | Annotated[TorchModel, Tag("module")],
    Discriminator(network_kind),
]
