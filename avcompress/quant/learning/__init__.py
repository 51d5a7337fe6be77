"""What learns weights and scales from data: layer by layer, block by block, and through fake quantization."""
