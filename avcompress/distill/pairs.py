"""Which taps of two networks belong together, and how their tensors are brought to one shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avcompress.distill.taps import OUTPUT, Record, find_taps, plain
from avcompress.recipe_distill import Tap, Taps
from avcompress.spec import ModelError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Pair:
    """A tap of the student and the one of the teacher that it is held against."""

    student: str
    teacher: str

    def __str__(self) -> str:
        if self.student == OUTPUT:
            return "the outputs"
        same = plain(self.student) == plain(self.teacher)
        return f"tap {self.student!r}" if same else f"tap {self.student!r} (teacher: {self.teacher!r})"


OUTPUTS = Pair(OUTPUT, OUTPUT)


def find_pairs(student: nn.Module, teacher: nn.Module, taps: Taps) -> tuple[Pair, ...]:
    """The taps that names and patterns stand for, in pairs; without any, the networks' outputs.

    A pattern's taps are paired by name, or in the networks' order where names differ. Raises ModelError for a pattern
    that fits nothing, or not as many tensors of one network as of the other.
    """
    return tuple(pair for tap in taps for pair in _pairs_of(student, teacher, tap)) or (OUTPUTS,)


def _pairs_of(student: nn.Module, teacher: nn.Module, tap: str | Tap) -> Iterator[Pair]:
    given = Tap(student=tap, teacher=tap) if isinstance(tap, str) else tap
    ours = find_taps(student, given.student, "student")
    theirs = find_taps(teacher, given.teacher, "teacher")
    by_name = {plain(name): name for name in theirs}
    if {plain(name) for name in ours} == set(by_name):
        theirs = tuple(by_name[plain(name)] for name in ours)
    if len(ours) != len(theirs):
        raise ModelError(
            f"tap {given.student!r}: expected as many tensors of the teacher as of the student, {len(ours)}, got "
            f"{len(theirs)}; name them in pairs, as {{student: ..., teacher: ...}}"
        )
    return (Pair(a, b) for a, b in zip(ours, theirs, strict=True))


# --- shapes


def shape_at(record: Record, name: str, where: str) -> Shape:
    """The shape of a tap; raises ModelError for an output that is not one tensor."""
    value = record.at(name)
    if not isinstance(value, Tensor):
        raise ModelError(
            f"{where}: expected a network that returns one tensor, got {type(value).__name__}; "
            "cut the others off, or wrap it so that it returns the one to learn from"
        )
    return tuple(value.shape)


@dataclass(frozen=True)
class Fit:
    """How alike the two tensors of a pair have to be: by default of one shape, or feature maps of any two sizes.

    Attributes:
        maps: they have to be feature maps, (N, C, H, W).
        channels: these have to be as many.
        size: so have height and width.
        adapted: channels that differ are brought to the teacher's by an adapter.
    """

    maps: bool = False
    channels: bool = True
    size: bool = False
    adapted: bool = False


def check_fit(pair: Pair, student: Shape, teacher: Shape, fit: Fit) -> None:
    """Raise ModelError unless the tensors of two networks can be compared."""
    maps = len(student) == len(teacher) == 4 and student[0] == teacher[0]
    if student == teacher and (maps or not fit.maps):
        return
    if maps and (student[1] == teacher[1] or not fit.channels) and not fit.size:
        return
    wanted = f"({', '.join(map(str, teacher))}) as the teacher's"
    if fit.maps and not maps:
        wanted = f"feature maps (N, C, H, W) of both, as the teacher's is {teacher}"
    elif not fit.size:
        wanted += ", any height and width" if maps else " or feature maps (N, C, H, W) of both"
    raise ModelError(f"{pair}: expected {wanted}, got {student}; tap another place, or leave it out")


def adapter(student: Shape, teacher: Shape) -> nn.Module:
    """A 1x1 convolution to the teacher's channels, none where they are the same. Source: FitNets, arXiv:1412.6550."""
    if len(student) != 4 or student[1] == teacher[1]:
        return nn.Identity()
    return nn.Conv2d(student[1], teacher[1], 1)


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Feature maps brought to the smaller height and width of the two: what only one of them sees is not invented."""
    if student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = [min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return resized(student, size), resized(teacher, size)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Maps or pictures, (N, C, H, W), of another height and width; each pixel of smaller ones is a mean."""
    if list(x.shape[2:]) == list(size):
        return x
    return F.interpolate(x, list(size), mode="bilinear", antialias=True, align_corners=False)
