"""What a quantized network is made of, and which layer costs what."""
