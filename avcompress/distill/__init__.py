"""Learning from another network: losses between two of them, taps into both, and what a training loop makes small."""

from avcompress.distill.distillation import Distillation, distillation, label_free
from avcompress.distill.generation import generate
from avcompress.distill.replay import Replayed
from avcompress.distill.statistics import folded_statistics, recorded_statistics, stored_statistics
from avcompress.distill.teacher import float_module, load_teacher
from avcompress.distill.terms import Subject
from avcompress.distill.training import Guidance, distill

__all__ = [
    "Distillation",
    "Guidance",
    "Replayed",
    "Subject",
    "distill",
    "distillation",
    "float_module",
    "folded_statistics",
    "generate",
    "label_free",
    "load_teacher",
    "recorded_statistics",
    "stored_statistics",
]
