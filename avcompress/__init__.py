"""avcompress: compress perception networks under one contract of deadline and accuracy."""

__version__ = "0.1.0"
