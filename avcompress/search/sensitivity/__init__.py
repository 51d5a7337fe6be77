"""What a group of layers loses in a precision, measured at outputs, by the metric, gradients, or curvature."""
