"""Learning from another network: losses between two of them, taps into both, and what a training loop makes small."""

from avcompress.distill.distillation import Distillation, distillation
from avcompress.distill.teacher import load_teacher

__all__ = ["Distillation", "distillation", "load_teacher"]
