"""What the compression methods consume: network inputs, one image at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from avcompress.recipe import Preprocess
from avcompress.spec import Batch
from calibration.preprocess import preprocess
from calibration.sample import Sample


def batches(source: Iterable[Sample], settings: Preprocess, input_name: str) -> Iterator[Batch]:
    """Preprocess sample by sample; each batch is {input_name: (1, 3, H, W) float32}."""
    for sample in source:
        yield {input_name: preprocess(sample.image, settings)[0]}
