"""The drift watch of a node: looks at every so many images once their results are published, and never in their way."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from avcompress.spec import Array
from calibration.figures import input_figures, output_figures
from calibration.frame import Frame
from engines.manifest import Familiar
from engines.postprocess import Finished
from engines.session import one_line
from ros_nodes.core.drift import CameraDrift, DriftView
from ros_nodes.core.samples import Sample, Samples
from ros_nodes.core.served import Prepared, Served
from ros_nodes.core.settings import MS, Settings


class Glance(NamedTuple):
    """One image that went through an engine: what was sent, and the engine's input and outputs of it."""

    camera: str
    frame: Frame
    prepared: Prepared
    outputs: Mapping[str, Array]


class DriftWatch:
    """Thread-safe; nothing that it is given makes it raise."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._samples = Samples(settings.drift_samples, settings.drift_max_samples, round(settings.drift_max_mb * 1e6))
        self._seen = dict.fromkeys(settings.cameras, 0)
        self._kept: dict[str, Sample] = {}
        self._errors, self._error, self._unwritten = 0, "", 0
        self._familiar: Familiar | None = None
        self.forget()

    def forget(self) -> None:
        """Begin to look at the cameras anew."""
        with self._lock:
            self._cameras = {camera: CameraDrift() for camera in self._settings.cameras}
            self._sampled_ns: dict[str, int] = {}

    def look(self, served: Served, glances: Iterable[Glance], now_ns: int) -> None:
        """Look at the images whose turn it is; what goes wrong is counted."""
        try:
            for glance in glances:
                self._look(served, glance, now_ns)
        except Exception as error:  # the vehicle goes on without the watch, never the other way round
            self._fail(error)

    def _look(self, served: Served, glance: Glance, now_ns: int) -> None:
        familiar = served.manifest.familiar
        if familiar is not self._familiar and familiar != self._familiar:
            self._familiar = familiar
            self.forget()
        every, turn = self._settings.drift_every, self._seen[glance.camera]
        self._seen[glance.camera] = turn + 1
        if familiar is None or not every or turn % every:
            return
        figures = figures_of(served, glance)
        with self._lock:
            camera = self._cameras[glance.camera]
            camera.look(figures, familiar, self._settings.drift_tolerance, self._settings.drift_after)
            if camera.drifting and self._is_due(glance.camera, now_ns):
                self._sampled_ns[glance.camera] = now_ns
                self._keep(Sample(glance.camera, glance.frame, served.name, figures, camera.worst))

    def _keep(self, sample: Sample) -> None:
        # The one that waits for the disk is nearer to the beginning of the drift.
        if self._kept.setdefault(sample.camera, sample) is not sample:
            self._unwritten += 1

    def _is_due(self, camera: str, now_ns: int) -> bool:
        last = self._sampled_ns.get(camera)
        return self._samples.wanted and (last is None or now_ns - last >= self._settings.drift_sample_every_ms * MS)

    def save(self) -> None:
        """Write the samples that were kept, if any; to be called by a thread that nobody waits for."""
        with self._lock:
            kept, self._kept = self._kept, {}
        for sample in kept.values():
            self._write(sample)

    def _write(self, sample: Sample) -> None:
        try:
            self._samples.write(sample)
        except Exception as error:  # a full disk is no reason to stop driving
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._errors, self._error = self._errors + 1, one_line(error)

    def view(self, served: Served | None) -> DriftView:
        """What diagnostics say of it, beside the engine that serves, if any."""
        with self._lock:
            return DriftView(
                cameras={name: copy.copy(camera) for name, camera in self._cameras.items()},
                known=served is not None and served.manifest.familiar is not None,
                on=self._settings.drift_every > 0,
                saved=self._samples.saved,
                refused=self._samples.refused + self._unwritten,
                errors=self._errors,
                error=self._error,
            )


def figures_of(served: Served, glance: Glance) -> dict[str, float]:
    """An image's figures, as calibration took them of its own images."""
    prepared, outputs = glance.prepared, glance.outputs
    found = input_figures(prepared.value, prepared.geometry, served.manifest.preprocess)
    # What was post-processed on the device are no raw outputs.
    return found if isinstance(outputs, Finished) else {**found, **output_figures(outputs)}
