"""The YAML recipe as frozen pydantic models: a closed union of data formats, stages and engines.

Config flows one way: YAML -> these models -> function arguments. Paths are stored as written; `bench` resolves them.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from avcompress.contract import Contract, Measure, Validation
from avcompress.frozen import Fraction, Model
from avcompress.recipe_distill import Distill, Generation
from avcompress.recipe_drive import RosbagSource
from avcompress.recipe_lowrank import Factorize
from avcompress.recipe_mixed import Mixed
from avcompress.recipe_network import Network
from avcompress.recipe_prune import Prune, Sparsify
from avcompress.recipe_qat import Qat
from avcompress.recipe_rewrite import Rewrite
from avcompress.recipe_training import Train

SceneSide = Annotated[int, Field(ge=32, le=4096)]
Triple = tuple[float, float, float]


# --- data


class Preprocess(Model):
    """From an RGB uint8 image to the network's input: resize, pad, reorder, then scale * (pixel - mean) / std."""

    size: tuple[PositiveInt, PositiveInt] = Field(description="height, width of the network's input")
    fit: Literal["letterbox", "stretch"] = Field("letterbox", description="letterbox keeps the aspect ratio and pads")
    anchor: Literal["top_left", "center"] = Field("center", description="where letterbox puts the image")
    pad: Annotated[int, Field(ge=0, le=255)] = Field(114, description="grey value of the padding")
    channels: Literal["rgb", "bgr"] = Field("rgb", description="the network's channel order")
    mean: Triple = Field((0.0, 0.0, 0.0), description="by channel, in the network's channel order, 0-255 scale")
    std: Triple = Field((1.0, 1.0, 1.0), description="by channel, in the network's channel order, 0-255 scale")
    scale: PositiveFloat = Field(1.0, description="final factor: 0.00392157 gives 0-1 with mean 0 and std 1")

    @model_validator(mode="after")
    def _is_on_the_scale_of_pixels(self) -> Preprocess:
        # ImageNet's 0.485 and 0.229 as most training code spells them would leave the pixels nearly as they are.
        if all(0 < value < 1 for value in (*self.mean, *self.std)):
            raise ValueError(
                f"expected mean and std on the scale of pixels, 0-255, got {self.mean} and {self.std}; "
                "multiply both by 255, and leave out `scale`: 255 cancels out"
            )
        return self


class SourceSettings(Model):
    """What every data format shares."""

    skip: NonNegativeInt = Field(0, description="leave out so many images at the beginning")
    every: PositiveInt = Field(1, description="of the others take every n-th, in the order of the format")
    limit: PositiveInt | None = Field(None, description="take at most so many, after `every`")
    on_bad_image: Literal["fail", "skip"] = Field("fail", description="what an undecodable image does to the run")
    tags: str | None = Field(
        None, description="JSON file: image name -> {tag: value}; each tag's values become slices of the accuracy"
    )


class CocoSource(SourceSettings):
    """Images and a COCO JSON; the order is that of the image ids."""

    format: Literal["coco"]
    images: str = Field(description="folder that the file names in the labels start from")
    labels: str = Field(description="the JSON file: images, annotations with boxes, categories")
    aliases: dict[str, str | None] = Field(
        default_factory=dict,
        description="label name -> class name; null means ignore the object; '*' stands for every label that is "
        "neither a class nor listed",
    )


class KittiSource(SourceSettings):
    """Images and KITTI object labels (15-field txt); the order is that of the file names."""

    format: Literal["kitti"]
    images: str = Field(description="folder of images")
    labels: str = Field(description="folder of txt files, one an image, of the image's stem")
    aliases: dict[str, str | None] = Field(
        {"DontCare": None},
        description="label name -> class name; null means ignore the object; '*' stands for every label that is "
        "neither a class nor listed",
    )


class MaskSource(SourceSettings):
    """Images and PNG masks of the same stem; a mask holds class indices, or colours looked up in `colours`."""

    format: Literal["masks"]
    images: str = Field(description="folder of images")
    labels: str = Field(description="folder of masks")
    recursive: bool = Field(False, description="take the images of sub-folders too; masks lie in the same sub-folders")
    image_suffix: str = Field("", description="the end of an image's stem that its mask's has not: _leftImg8bit")
    label_suffix: str = Field("", description="what the mask's stem has in its place: _gtFine_labelTrainIds")
    void: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field((255,), description="indices that mean unlabelled")
    colours: dict[str, tuple[int, int, int]] | None = Field(
        None,
        description="class name -> RGB, for colour masks; colours that are not listed are an error, `void` is a name",
    )


class ImageSource(SourceSettings):
    """A plain folder of images, without labels: enough for calibration."""

    format: Literal["images"]
    images: str = Field(description="folder of images")
    recursive: bool = Field(False, description="take the images of sub-folders too")


class SceneSource(SourceSettings):
    """Road scenes rendered here: needs no files."""

    format: Literal["scenes"]
    count: Annotated[int, Field(ge=1, le=1_000_000)] = Field(description="how many")
    seed: NonNegativeInt = Field(0, description="another seed gives other scenes")
    size: tuple[SceneSide, SceneSide] = Field((192, 320), description="height, width")
    labels: Literal["boxes", "masks"] = Field("boxes", description="what the scenes are labelled with")


class GeneratedSource(Generation):
    """Pictures that the run makes of what the network's batch normalizations know: needs no files, has no labels."""

    format: Literal["generated"]


DataSource = Annotated[
    CocoSource | KittiSource | MaskSource | ImageSource | RosbagSource | SceneSource | GeneratedSource,
    Field(discriminator="format"),
]


def _how_many(value: Any) -> str:
    return "listed" if isinstance(value, list | tuple) else "alone"


SourceList = Annotated[tuple[DataSource, ...], Field(min_length=1)]
Sources = Annotated[
    Annotated[DataSource, Tag("alone")] | Annotated[SourceList, Tag("listed")], Discriminator(_how_many)
]
"""One set of images, or a list of several that are taken together."""


class Data(Model):
    """What the network is trained, calibrated and judged on."""

    calibration: Sources = Field(
        description="what the ranges of activations are taken from; labels are not used. One source, or a list of them"
    )
    validation: DataSource = Field(description="what accuracy is measured on; needs labels")
    train: Sources | None = Field(
        None,
        description="what stages that train learn from, one source or a list; `train` needs it, others take the "
        "calibration images in its place",
    )
    selection: DataSource | None = Field(
        None,
        description="labelled images that `ptq` chooses precisions by (`mixed`); default: the validation images, whose "
        "figures then flatter what was chosen by them",
    )


# --- task


class Detection(Model):
    """Boxes: how the network's output is decoded."""

    kind: Literal["detection"]
    decode: Literal["yolox", "yolov5", "yolov8", "ltrb"] = Field(
        description="yolox: (1,N,5+C) undecoded; yolov5: (1,N,5+C) cx,cy,w,h; yolov8: (1,4+C,N) cx,cy,w,h; "
        "ltrb: (1,N,4+C) distances to the four sides in strides, class logits"
    )
    strides: tuple[PositiveInt, ...] = Field((8, 16, 32), description="of the feature maps, in the output's order")
    score_threshold: Fraction = Field(
        0.001, description="lower scores are dropped before NMS; low for average precision"
    )
    deployed_threshold: Fraction = Field(
        0.3, description="the score from which the vehicle believes a box: precision, recall and false alarms are of it"
    )
    nms_iou: Fraction = Field(0.65, description="a box that overlaps a better one of its class by more is dropped")
    max_detections: PositiveInt = Field(100, description="at most so many an image")


class Segmentation(Model):
    """One class a pixel: argmax over the channels of (1,C,h,w) logits at the network's input size."""

    kind: Literal["segmentation"]


Task = Annotated[Detection | Segmentation, Field(discriminator="kind")]

# --- stages


class KeepFloat(Model):
    """Which weighted layers stay float; null leaves it to the rules of the target."""

    head: bool = Field(True, description="layers with no other weighted layer between them and an output")
    depthwise: bool | None = Field(None, description="convolutions with one input channel a group")
    squeeze_excite: bool | None = Field(None, description="the two layers that compute a channel's gate")
    attention_split: bool | None = Field(
        None, description="matrix products whose output is split into query, key and value, or two of them"
    )
    small_channels: NonNegativeInt | None = Field(
        None, description="convolutions with fewer input or output channels a group than this, the first layer apart"
    )
    layers: tuple[str, ...] = Field((), description="fnmatch patterns on a node's name, its weight's or output's name")


class Ptq(Model):
    """Post-training quantization of activations and weights, with ranges from the calibration images."""

    kind: Literal["ptq"]
    format: Literal["int8", "fp8"] = Field("int8", description="int8, or fp8: E4M3, for GPUs from sm89 on")
    activations: Literal["symmetric", "shifted", "asymmetric"] = Field(
        "symmetric",
        description="shifted: the middle of the range is subtracted before layers that pad nothing, and given back in "
        "their biases, which all targets take; asymmetric: with a zero point, which TensorRT does not take",
    )
    weights: Literal["per_channel", "per_tensor"] = Field("per_channel", description="how many scales a weight has")
    weight_bits: Literal[8, 7] = Field(
        8,
        description="7: INT8 of which weights use half, so that x86 CPUs without VNNI, whose sums of products saturate "
        "in 16 bits, may compute in integers",
    )
    ranges: Literal["mse", "minmax", "moving_average", "percentile", "entropy"] = Field(
        "mse", description="how an activation's range follows from its statistics"
    )
    percentile: Annotated[float, Field(gt=50, le=100)] = Field(
        99.99, description="share of the values inside the range, in per cent, where `ranges` is percentile"
    )
    rules: Literal["tensorrt", "cpu"] = Field(
        "tensorrt",
        description="where Q/DQ go: tensorrt's fusions also suit the cpu; cpu quantizes more kinds of layers",
    )
    statistics: str | None = Field(
        None, description="a file of `avcompress calibrate`, instead of running the calibration images"
    )
    keep_float: KeepFloat = Field(KeepFloat(), description="what is not quantized")
    mixed: Mixed | None = Field(
        None, description="choose what is not quantized, among all layers that can be, in the place of keep_float"
    )

    @model_validator(mode="after")
    def _names_or_chooses(self) -> Ptq:
        if self.mixed is not None and "keep_float" in self.model_fields_set:
            raise ValueError("expected keep_float or mixed, got both; leave out keep_float")
        return self

    @model_validator(mode="after")
    def _halves_integers_alone(self) -> Ptq:
        formats = (self.format, *((self.mixed.formats if self.mixed is not None else None) or ()))
        if "fp8" in formats and self.weight_bits != 8:
            raise ValueError("expected weight_bits: 8 with fp8, got 7; FP8 has no sums that saturate: leave it out")
        return self


class Dynamic(Model):
    """Dynamic quantization: weights in INT8, activations quantized as they come, without calibration; for CPUs."""

    kind: Literal["dynamic"]
    keep_float: KeepFloat = Field(KeepFloat(), description="what is not quantized")


class WeightOnly(Model):
    """Weights in INT8 or INT4, arithmetic in float: a smaller file, not a faster network."""

    kind: Literal["weight_only"]
    format: Literal["int8", "int4"] = Field("int8", description="of the weights")
    block_size: PositiveInt | None = Field(
        None, description="values along the input that share a scale, of matrix products; default: one a channel"
    )
    keep_float: KeepFloat = Field(KeepFloat(), description="what is not quantized")


class Cast(Model):
    """The layers that are float in FP16 or BF16; the network's inputs and outputs stay FP32. After `ptq`, if at all."""

    kind: Literal["cast"]
    format: Literal["fp16", "bf16"] = Field("fp16", description="of the arithmetic")
    keep_float: tuple[str, ...] = Field((), description="fnmatch patterns of nodes that stay FP32")


class Equalize(Model):
    """Cross-layer equalization, before `ptq`: consecutive layers share out their channels' ranges; same results."""

    kind: Literal["equalize"]
    iterations: PositiveInt = Field(20, description="passes over the pairs of layers, at most")
    explicit: bool = Field(
        True, description="go through SiLU, ReLU6 and the like by an explicit multiplication per channel"
    )


class Smooth(Model):
    """Smooth activations before `ptq`: a multiplication per channel evens the input out, the weights take it back."""

    kind: Literal["smooth"]
    strength: Fraction = Field(
        1.0,
        description="how much of the channels' differences the weights take over, SmoothQuant's alpha: "
        "all (1) costs depthwise layers nothing, 0.5 suits others",
    )
    layers: Literal["depthwise"] | tuple[str, ...] = Field(
        "depthwise", description="depthwise, or fnmatch patterns on a node's name, its weight's or output's name"
    )


class CorrectBias(Model):
    """Correct the shift that quantization puts on each output channel's mean, after `ptq`."""

    kind: Literal["correct_bias"]
    method: Literal["empirical", "analytic"] = Field(
        "empirical", description="measured on calibration images; or from batch normalization's statistics, without any"
    )
    images: PositiveInt = Field(32, description="calibration images that are measured, spread over the set")


class AdaRound(Model):
    """Learn for every weight whether to round up or down, layer by layer, after `ptq`."""

    kind: Literal["adaround"]
    steps: PositiveInt = Field(1000, description="of optimization, a layer")
    learning_rate: PositiveFloat = Field(1e-2, description="of the rounding variables")
    seed: NonNegativeInt = Field(0, description="of the sampled values")
    layers: tuple[str, ...] = Field(("*",), description="fnmatch patterns of the layers to round")


class Reconstruct(Model):
    """Learn rounding and activation scales block by block, after `ptq`."""

    kind: Literal["reconstruct"]
    steps: PositiveInt = Field(250, description="of optimization, a block")
    learning_rate: PositiveFloat = Field(4e-2, description="of the rounding variables")
    drop: Fraction = Field(0.5, description="share of activations left float while learning, as QDrop has it; 0: BRECQ")
    seed: NonNegativeInt = Field(0, description="of the order of images, and of the drop")


Quantizing = Ptq | Dynamic | WeightOnly
"""Stages that decide each layer's precision: one of them at most."""
Preparing = Equalize | Smooth
"""Stages that change a float network without changing what it computes: before the quantizing one."""
Repairing = CorrectBias | AdaRound | Reconstruct
"""Stages that hold a quantized network against its float one: after `ptq`."""

FloatTraining = Train | Distill
"""Stages that train the float network."""
Shrinking = Prune | Sparsify | Factorize | Rewrite
"""Stages that make the float network smaller or faster; with those that train it, before all others."""

Stage = Annotated[
    FloatTraining | Shrinking | Preparing | Quantizing | Repairing | Qat | Cast, Field(discriminator="kind")
]

# --- engines


class OrtProvider(Model):
    """An execution provider of ONNX Runtime with its options."""

    name: str = Field(description="as ONNX Runtime spells it: CUDAExecutionProvider")
    options: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="of this provider, in ONNX Runtime's words"
    )


class OrtEngine(Model):
    """ONNX Runtime; as it stands, the numeric reference of a quantized network: on the CPU, optimizations off."""

    backend: Literal["ort"]
    required: bool = Field(True, description="false: skip it, and say so, where the backend is not installed")
    providers: tuple[str | OrtProvider, ...] = Field(
        ("CPUExecutionProvider",),
        min_length=1,
        description="execution providers, the preferred one first: names, or name and options; the CPU takes what "
        "the others leave",
    )
    optimize: bool = Field(
        False, description="graph optimizations: faster, and no longer each operator as ONNX defines it"
    )
    threads: PositiveInt | None = Field(None, description="of the CPU; default: all cores")

    @property
    def is_reference(self) -> bool:
        """Whether every operator is computed on the CPU as ONNX defines it."""
        return not self.optimize and self.providers == OrtEngine.model_fields["providers"].default


class OpenVinoEngine(Model):
    """OpenVINO on the CPU."""

    backend: Literal["openvino"]
    required: bool = Field(True, description="false: skip it, and say so, where the backend is not installed")
    threads: PositiveInt | None = Field(None, description="default: all cores")
    precision: Literal["f32", "bf16"] = Field("f32", description="of the layers that are not INT8")


class RtxEngine(Model):
    """TensorRT for RTX, built ahead of time on the CPU: proves that the graph parses, types and compiles to INT8."""

    backend: Literal["trt_rtx"]
    required: bool = Field(True, description="false: skip it, and say so, where the backend is not installed")
    compute_capabilities: tuple[Literal["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"], ...] = Field(
        ("sm86", "sm89"), description="of the GPUs that the engine is compiled for"
    )
    timeout_s: PositiveFloat = Field(600.0, description="a build that takes longer fails")
    memory_limit_mb: PositiveInt | None = Field(
        None, description="a build whose process takes more memory fails; default: no limit"
    )


class TrtEngine(Model):
    """TensorRT, built on the machine that it runs on: Jetson, DRIVE, or a data-centre GPU."""

    backend: Literal["trt"]
    required: bool = Field(True, description="false: skip it, and say so, where there is no CUDA device or no TensorRT")
    target: str | None = Field(
        None, description="the machine, as orin-agx@jetpack-6.2; default: what the TensorRT that is here takes"
    )
    workspace_mb: PositiveInt | None = Field(
        None, description="GPU memory that a layer may use while it works; default: all there is"
    )
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = Field(
        None, description="0 builds fastest, 5 searches longest; default: TensorRT's own"
    )
    dla: NonNegativeInt | None = Field(None, description="the DLA core to build for; default: the GPU")
    dla_fallback: Literal["refuse", "list"] = Field(
        "refuse", description="layers that DLA cannot run: refuse the build, or run them on the GPU and list them"
    )
    timeout_s: PositiveFloat = Field(3600.0, description="a build that takes longer fails")
    memory_limit_mb: PositiveInt | None = Field(None, description="a build that takes more fails; default: no limit")


Engine = Annotated[OrtEngine | OpenVinoEngine | RtxEngine | TrtEngine, Field(discriminator="backend")]


class Target(Model):
    """Where the network shall run. Pictures are made with the first engine whose latency is measured."""

    engines: tuple[Engine, ...] = Field(min_length=1, description="each backend at most once")


class Recipe(Model):
    """One compression job: a network, data, a target, stages, and the contract the result must keep."""

    name: str = Field(pattern=r"^[\w.-]+$", description="what the report calls it")
    task: Task = Field(description="what the network does")
    model: Network = Field(description="the float network")
    classes: tuple[str, ...] | None = Field(
        None, description="the network's classes in output order; default: the validation labels' own table"
    )
    preprocess: Preprocess = Field(description="from an image to the network's input, as it was trained")
    data: Data = Field(description="images and labels")
    stages: tuple[Stage, ...] = Field(min_length=1, description="what is done to the network, in this order")
    target: Target = Field(description="where it shall run")
    contract: Contract = Field(description="what the result must keep")
    validation: Validation = Field(Validation(), description="how accuracy is judged")
    measure: Measure = Field(Measure(), description="how latency is sampled")

    @property
    def reference_stages(self) -> tuple[Stage, ...]:
        """The stages that make the float network which accuracy drops are measured against."""
        training = itertools.takewhile(lambda stage: isinstance(stage, FloatTraining), self.stages)
        return tuple(training)
