"""The mode of a module is what it was, whatever happened."""

import pytest
from torch import nn

from avcompress.modes import evaluating


def test_eval_mode_ends_after_an_error():
    module = nn.ReLU()
    inside = []

    def fails():
        with evaluating(module):
            inside.append(module.training)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()

    assert (inside, module.training) == ([False], True)


def test_every_part_goes_back_to_the_mode_it_had():
    module = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout())
    module[0].eval()

    with evaluating(module):
        assert not any(part.training for part in module.modules())

    assert [part.training for part in module.modules()] == [True, False, True]
