"""From image folders, labels and drives to calibration and validation samples; never imports torch."""
