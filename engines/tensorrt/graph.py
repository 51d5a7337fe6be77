"""Work that is submitted over and over, as one CUDA graph where that is possible."""

from __future__ import annotations

from collections.abc import Callable

from avcompress.spec import EngineError
from engines.tensorrt.cuda import Cuda, CudaError, Handle


class Repeated:
    """Submits the same work to one stream: the first time call by call, the second time recorded, then as one launch.

    The first time warms up: TensorRT initializes what must not be recorded. Where recording fails, the work goes on
    call by call.

    Attributes:
        note: why there is no graph; empty where there is one, or may be one yet.
    """

    def __init__(self, cuda: Cuda, stream: int, submit: Callable[[], None], record: bool) -> None:
        self._cuda, self._stream, self._submit = cuda, stream, submit
        self._graph: Handle | None = None
        self._warm = False
        self.note = "" if record else "not asked for"
        if record and not cuda.has_graphs:
            self.note = f"{cuda.package} has no CUDA graphs"

    def run(self) -> None:
        """Submit the work once; raises CudaError, and what the work itself raises."""
        if self._graph is None and self._warm and not self.note:
            self._record()
        if self._graph is None:
            self._submit()
            self._warm = True
        else:
            self._cuda.launch_graph(self._graph, self._stream)

    def _record(self) -> None:
        try:
            self._cuda.begin_capture(self._stream)
            self._capture()
        except EngineError as error:
            if isinstance(error, CudaError) and error.sticky:
                raise
            self.note = f"the work cannot be recorded: {error}"

    def _capture(self) -> None:
        try:
            self._submit()
        except BaseException:
            # A stream that is left recording runs nothing any more.
            self._cuda.abandon_capture(self._stream)
            raise
        self._graph = self._cuda.end_capture(self._stream)

    def reset(self) -> None:
        """Forget the graph: shapes or addresses are others now."""
        graph, self._graph, self._warm = self._graph, None, False
        if graph is not None:
            self._cuda.destroy_graph(graph)
