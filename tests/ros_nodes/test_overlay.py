"""Pictures for people: what is drawn, how often, and that no result waits for one."""

import numpy as np

from calibration.frame import CompressedImage, Header, RawImage
from engines.postprocess import Detections
from ros_nodes.core.clock import Clock
from ros_nodes.core.result import Moments, Result
from ros_nodes.overlay import Overlay, draw

MS = 1_000_000
GREY = np.full((40, 60, 3), 90, np.uint8)


def boxes(*xyxy, label=1):
    return Detections(np.float32([xyxy]), np.float32([0.9]), np.array([label]))


def frame(number, camera="front"):
    return RawImage(Header(number, 0, camera), 40, 60, "rgb8", 180, GREY.reshape(-1))


def result(number, camera="front"):
    moments = Moments(0, 0, 0, 0, 0, 0)
    return Result(camera, Header(number, 0, camera), (40, 60), boxes(20, 20, 50, 35), "tiny", moments)


class Rig:
    def __init__(self, every_ms=100.0):
        self.now, self.drawn = 0, []
        clock = Clock(lambda: self.now, lambda: self.now)
        self.overlay = Overlay(every_ms, self.drawn.append, ("car", "person"), clock)

    def serve(self, number, at_ms, camera="front"):
        self.now = at_ms * MS
        self.overlay.keep(camera, frame(number, camera))
        self.overlay.offer(result(number, camera))


def test_a_box_is_drawn_on_its_edges_and_the_image_stays_as_it_was():
    drawn = draw(GREY, boxes(20, 20, 50, 35), ("car", "person"))
    assert (drawn[20, 20:50] != 90).any(axis=1).all()
    assert (drawn[28, 30] == 90).all()
    assert (GREY == 90).all()


def test_a_class_without_a_name_is_drawn_by_its_number():
    draw(GREY, boxes(1, 1, 5, 5, label=7), ())


def test_a_box_beyond_the_image_is_drawn_as_far_as_it_goes():
    assert draw(GREY, boxes(-50, -50, 500, 500), ("a", "b")).shape == GREY.shape


def test_a_mask_covers_the_image_by_half_and_its_classes_differ():
    mask = np.repeat(np.uint8([[0, 1, 255]]), 20, axis=1).repeat(40, axis=0)
    drawn = draw(GREY, mask, ())
    colours = {tuple(drawn[0, x]) for x in (0, 20, 40)}
    assert len(colours) == 3


def test_a_mask_of_many_classes_is_drawn_too():
    drawn = draw(GREY, np.full(GREY.shape[:2], 300, np.uint16), ())
    assert (drawn == drawn[0, 0]).all()
    assert (drawn[0, 0] != 90).any()


def test_pictures_are_drawn_now_and_then_by_camera():
    rig = Rig(every_ms=100)
    for number, at_ms in enumerate((0, 50, 99, 100, 150)):
        rig.serve(number, at_ms)
        rig.serve(number, at_ms, "left")
        rig.overlay.draw_one()
    # One waits at a time, so that `left` comes when `front` does not.
    assert [(d.camera, d.header.sec) for d in rig.drawn] == [("front", 0), ("left", 1), ("front", 3), ("left", 4)]


def test_what_comes_while_one_is_drawn_is_left_out_and_waits_for_nothing():
    rig = Rig(every_ms=0)
    for number in range(5):
        rig.serve(number, number)
    while rig.overlay.draw_one():
        pass
    assert [d.header.sec for d in rig.drawn] == [0]


def test_a_result_whose_frame_is_gone_is_not_drawn():
    rig = Rig()
    for number in range(4):
        rig.overlay.keep("front", frame(number))
    rig.overlay.offer(result(0))
    assert not rig.overlay.draw_one()
    rig.overlay.offer(result(1))
    assert rig.overlay.draw_one()


def test_a_frame_that_cannot_be_read_is_left_out():
    rig = Rig()
    rig.overlay.keep("front", CompressedImage(Header(1, 0, "front"), "jpeg", np.zeros(9, np.uint8)))
    rig.overlay.offer(result(1))
    assert rig.overlay.draw_one()
    assert rig.drawn == []


def test_what_goes_wrong_with_a_picture_is_told_and_the_next_one_is_drawn():
    rig, told = Rig(every_ms=0), []

    def refuse(_):
        raise RuntimeError("publisher is gone")

    rig.overlay.on_error = lambda camera, error: told.append((camera, str(error)))
    rig.overlay.on_picture, show = refuse, rig.overlay.on_picture
    rig.serve(1, 0)
    assert rig.overlay.draw_one()
    rig.overlay.on_picture = show
    rig.serve(2, 1)
    assert rig.overlay.draw_one()
    assert (told, [d.header.sec for d in rig.drawn]) == ([("front", "publisher is gone")], [2])


def test_a_thread_of_its_own_draws_until_it_is_closed():
    import threading

    done = threading.Event()
    overlay = Overlay(0.0, lambda _: done.set())
    overlay.start()
    overlay.keep("front", frame(1))
    overlay.offer(result(1))
    assert done.wait(10)
    overlay.close()
