"""Figures of predicted masks, pooled over the pixels of a whole set: mean IoU, pixel and boundary F-score."""

from validation.segmentation.bands import BANDS, Band
from validation.segmentation.confusion import confusion
from validation.segmentation.evaluate import SegmentationMetrics, evaluate_segmentation, segmentation_metric_names
from validation.segmentation.figures import mask_metric_names
from validation.segmentation.tally import MaskTally, tally_bands, tally_masks

__all__ = [
    "BANDS",
    "Band",
    "MaskTally",
    "SegmentationMetrics",
    "confusion",
    "evaluate_segmentation",
    "mask_metric_names",
    "segmentation_metric_names",
    "tally_bands",
    "tally_masks",
]
