import numpy as np

from avcompress.recipe import Preprocess, SceneSource
from calibration.batches import Batches, spread
from calibration.preprocess import preprocess
from calibration.source import Source, open_source

HOW = Preprocess(size=(32, 32))


def scenes(count: int) -> Source:
    return open_source(SceneSource(format="scenes", count=count, size=(32, 48)), None, None)


def test_each_batch_is_one_preprocessed_image_under_the_input_name() -> None:
    source = scenes(3)

    made = list(Batches(source, HOW, "images"))

    assert [list(batch) for batch in made] == [["images"]] * 3
    for sample, batch in zip(source, made, strict=True):
        np.testing.assert_array_equal(batch["images"], preprocess(sample.image, HOW)[0])


def test_images_are_asked_for_one_at_a_time_and_anew_in_every_pass() -> None:
    asked = []

    def track(items, total=None):
        assert total == 3
        for item in items:
            asked.append(item.name)
            yield item

    batches = Batches(scenes(3), HOW, "x", track)
    next(iter(batches))

    assert len(batches) == 3
    assert len(asked) == 1
    assert len(list(batches)) == len(list(batches)) == 3
    assert asked == [asked[0], *asked[1:4], *asked[1:4]]


def test_a_batch_knows_the_name_of_its_image() -> None:
    source = scenes(2)

    assert [batch.names for batch in Batches(source, HOW, "x")] == [(name,) for name in source.names]


def test_a_limit_takes_the_first_images() -> None:
    source = scenes(4)
    totals = []

    def track(items, total=None):
        totals.append(total)
        return items

    batches = Batches(source, HOW, "x", track, limit=3)

    assert len(batches) == 3
    assert [batch.names for batch in batches] == [(name,) for name in source.names[:3]]
    assert totals == [3]
    assert len(Batches(source, HOW, "x", limit=9)) == 4


def test_a_few_images_are_spread_over_the_set() -> None:
    batches = Batches(scenes(10), HOW, "x")
    every = [batch.names[0] for batch in batches]

    assert [batch.names[0] for batch in spread(batches, 5)] == every[::2]
    assert [batch.names[0] for batch in spread(batches, 4)] == every[::3]
    assert [batch.names[0] for batch in spread(batches, 10)] == every


def test_of_batches_of_unknown_number_the_first_are_taken() -> None:
    assert list(spread(iter([{"x": np.zeros(n)} for n in range(3)]), 0)) == []
    assert [len(batch["x"]) for batch in spread(iter([{"x": np.zeros(n)} for n in range(3)]), 2)] == [0, 1]
