"""TensorRT and TensorRT-RTX: engines built in a process of their own, with what each version offers."""
