"""Figures of detections against labelled objects: COCO and KITTI average precision, and the detector at work."""

from validation.detection.evaluate import DetectionMetrics, detection_metric_names, evaluate_detection
from validation.detection.kitti_curves import tells_kitti
from validation.detection.tally import BY_SIZE, BoxTally, Within, box_metric_names, restoring_threshold, tally_boxes

__all__ = [
    "BY_SIZE",
    "BoxTally",
    "DetectionMetrics",
    "Within",
    "box_metric_names",
    "detection_metric_names",
    "evaluate_detection",
    "restoring_threshold",
    "tally_boxes",
    "tells_kitti",
]
