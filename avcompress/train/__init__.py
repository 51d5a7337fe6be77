"""Training: one loop for recovery, distillation and quantization-aware training, and what goes into it."""

from avcompress.train.augment import mirror
from avcompress.train.data import Dataset, Feed, batch_order, feed, load
from avcompress.train.descent import average_, rate
from avcompress.train.loop import Around, Trained, Turn, run_steps
from avcompress.train.recovery import TaskLoss, Trainable, settled, train
from avcompress.train.replay import old_places, replaying
from avcompress.train.state import Store
from avcompress.train.zeros import Zeros, joined, zeros_of

__all__ = [
    "Around",
    "Dataset",
    "Feed",
    "Store",
    "TaskLoss",
    "Trainable",
    "Trained",
    "Turn",
    "Zeros",
    "average_",
    "batch_order",
    "feed",
    "joined",
    "load",
    "mirror",
    "old_places",
    "rate",
    "replaying",
    "run_steps",
    "settled",
    "train",
    "zeros_of",
]
