"""What a recipe says of every stage that trains: the loop's settings, and what is done to pictures by chance."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from avcompress.frozen import Fraction, Model

Zoom = Annotated[float, Field(ge=0.1, le=10)]


class Augment(Model):
    """What chance does to a training picture and its labels, anew each time that it is shown."""

    mirror: Fraction = Field(0.5, description="how often left and right are exchanged; 0 where they mean something")
    brightness: Fraction = Field(0.25, description="the picture is lit by 1 - this to 1 + this")
    scale: tuple[Zoom, Zoom] = Field(
        (1.0, 1.0), description="the picture is resized by a factor between these two; the network's input cuts it"
    )
    shift: Fraction = Field(0.0, description="the picture is moved by up to this share of the input's sides")

    @model_validator(mode="after")
    def _is_ordered(self) -> Augment:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"expected the smaller scale first, got {list(self.scale)}; exchange the two")
        return self


class Training(Model):
    """The settings of the training loop, the same for every stage that trains."""

    steps: PositiveInt | None = Field(None, description="batches to train on; this or `epochs` is required")
    epochs: PositiveFloat | None = Field(None, description="how often each image is shown, in place of `steps`")
    batch_size: PositiveInt = Field(16, description="images a step, those of all processes together")
    accumulate: PositiveInt = Field(
        1, description="parts that a step's images are computed in, one after the other: takes less memory"
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or gradient descent with momentum")
    learning_rate: PositiveFloat = Field(2e-3, description="the highest one of the schedule")
    rates: Literal["absolute", "relative"] = Field(
        "absolute",
        description="relative: each tensor's learning rate is multiplied by its root mean square at the start; for "
        "networks with normalization folded in, whose weights differ a thousandfold",
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        1e-2, description="of weights, not of biases and normalization; decoupled for AdamW, in the gradient for SGD"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of SGD")
    warmup: Fraction = Field(0.05, description="share of the steps in which the learning rate rises")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="the learning rate after the rise: half a cosine down to 2 %, or as it is"
    )
    clip: PositiveFloat | None = Field(10.0, description="largest norm of the gradient; null: any")
    ema: Fraction = Field(
        0.03,
        description="share of the steps over which everything learned is averaged, which is what training returns; "
        "0: the last step's",
    )
    precision: Literal["float32", "bf16", "fp16"] = Field(
        "float32", description="of the arithmetic; weights stay float32. fp16 needs a GPU"
    )
    batch_norm: Literal["train", "frozen", "reestimate"] | None = Field(
        None,
        description="train: statistics of each batch, averaged into the network's; frozen: the network's own; "
        "reestimate: train, then statistics anew with the averaged weights. Default: frozen of an ONNX file, train of "
        "a torch module, also once it was made smaller",
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="where to train")
    seed: NonNegativeInt = Field(0, description="of the order of images, of what chance does to them and in the loss")
    validate_every: PositiveInt | None = Field(
        None,
        description="steps between two measurements of the contract's first AP or IoU on `data.validation`; the "
        "best network is returned. Default: none, the last one is",
    )
    patience: PositiveInt = Field(5, description="measurements without a better one after which training stops")
    keep_every: PositiveInt = Field(100, description="steps between two checkpoints that `--resume` goes on from")
    log: Literal["tensorboard", "mlflow"] | None = Field(
        None, description="tensorboard or mlflow: write loss and learning rate for it into `logs` of the output folder"
    )
    hold_mb: NonNegativeInt = Field(
        2048, description="training images are held in memory up to this size; above it they are decoded at each use"
    )
    augment: Augment = Field(Augment(), description="what chance does to a training picture")

    @model_validator(mode="after")
    def _has_a_length(self) -> Training:
        if (self.steps is None) == (self.epochs is None):
            got = "neither" if self.steps is None else "both"
            raise ValueError(f"expected steps or epochs, got {got}; give one of them")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"expected a batch_size in {self.accumulate} equal parts, as accumulate says, got {self.batch_size}; "
                "mend one of them"
            )
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError("expected precision float32 or bf16 on a CPU, got fp16; mend it, or set device: cuda")
        return self

    def count_steps(self, images: int) -> int:
        """The steps that training on so many images takes."""
        if self.steps is not None:
            return self.steps
        return max(1, round((self.epochs or 0) * images / self.batch_size))


class LabelLoss(Model):
    """The task's own loss: what the network is held to beside, or in place of, a teacher."""

    loss: str | None = Field(
        None,
        pattern=r"^(yolox|ltrb|cross_entropy|[\w.]+:\w+)$",
        description="yolox or ltrb, of a detector that is decoded so; cross_entropy, of a segmenter; or "
        "module:function of (outputs, samples). Default: the torch module's own methods `targets` and `loss`; beside a "
        "teacher else that of the task",
    )
    loss_args: dict[str, Any] = Field(
        default_factory=dict,
        description="keyword arguments of the loss; `class_weights` of cross_entropy is a list, or balanced",
    )
    import_from: str | None = Field(None, description="folder to import the loss from, relative to the recipe")


class Train(Training, LabelLoss):
    """Train the network's float weights on `data.train`; a torch module brings its own `loss`, or `loss` names one."""

    kind: Literal["train"]
