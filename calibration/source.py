"""Where labelled images come from: one way to open every data format."""

from __future__ import annotations

from pathlib import Path

from avcompress.recipe import (
    CocoSource,
    DataSource,
    GeneratedSource,
    ImageSource,
    KittiSource,
    MaskSource,
    SceneSource,
    Sources,
)
from avcompress.recipe_drive import RosbagSource
from avcompress.spec import RecipeError
from calibration.bag.drive import open_drive
from calibration.coco import open_coco
from calibration.images import open_images
from calibration.joined import Part, join
from calibration.kitti import open_kitti
from calibration.masks import open_masks
from calibration.sample import VOID, Boxes, Sample, Source

__all__ = ["VOID", "Boxes", "Sample", "Source", "open_source"]


def open_source(settings: Sources, root: Path, classes: tuple[str, ...] | None = None) -> Source:
    """Open the images and labels that a recipe names; nothing is decoded yet.

    Args:
        settings: the format, its files, and which images to take; of several, all images are taken, in order.
        root: what the paths of the settings are relative to.
        classes: the network's classes in output order; default: the labels' own table.

    Raises DataError when files are missing or labels do not fit the classes, RecipeError for classes or tags that
    scenes lack, MissingError for a drive without what reads it.
    """
    match settings:
        case tuple():
            return join([Part(_place(each), open_source(each, root, classes)) for each in settings])
        case CocoSource():
            return open_coco(settings, root, classes)
        case KittiSource():
            return open_kitti(settings, root, classes)
        case MaskSource():
            return open_masks(settings, root, classes)
        case ImageSource() | RosbagSource():
            return _open_unlabelled(settings, root, classes)
        case SceneSource():
            return _open_scenes(settings, classes)
        case GeneratedSource():
            raise RecipeError(
                "format: expected images that are there, got generated ones, which a run makes of its network; run "
                "the recipe, and give the folder state/generate-calibration of its output as format: images"
            )


def _open_unlabelled(settings: ImageSource | RosbagSource, root: Path, classes: tuple[str, ...] | None) -> Source:
    if isinstance(settings, RosbagSource):
        return open_drive(settings, root, classes)
    return open_images(settings, root, classes)


def _open_scenes(settings: SceneSource, classes: tuple[str, ...] | None) -> Source:
    # Not at the top: the renderer builds its samples from this module's types.
    from calibration.scenes import open_scenes

    if settings.tags is not None:
        raise RecipeError("tags: expected none of scenes, which bring their own; leave `tags` out")
    scenes = open_scenes(settings)
    if classes not in (None, scenes.classes):
        known, got = ", ".join(scenes.classes), ", ".join(classes or ())
        raise RecipeError(f"classes: expected those of the scenes, {known}, got {got}; leave `classes` out")
    return scenes


def _place(settings: DataSource) -> str:
    match settings:
        case GeneratedSource() | SceneSource():
            return settings.format
        case RosbagSource():
            return settings.bag
        case _:
            return settings.images
