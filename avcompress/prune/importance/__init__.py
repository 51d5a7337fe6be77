"""How important each channel of a network is: one criterion a file, each a pure function that returns Scores."""

from avcompress.prune.importance.activation import activation
from avcompress.prune.importance.chance import chance
from avcompress.prune.importance.geometric_median import fpgm
from avcompress.prune.importance.given import given, read_scores
from avcompress.prune.importance.gradients import fisher, gradient, taylor
from avcompress.prune.importance.lesson import Lesson
from avcompress.prune.importance.magnitude import l1, l2
from avcompress.prune.importance.norm_scale import bn_scale
from avcompress.prune.importance.scores import Scores, check_scores

__all__ = [
    "Lesson",
    "Scores",
    "activation",
    "bn_scale",
    "chance",
    "check_scores",
    "fisher",
    "fpgm",
    "given",
    "gradient",
    "l1",
    "l2",
    "read_scores",
    "taylor",
]
