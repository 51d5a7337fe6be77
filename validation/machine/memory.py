"""The most memory that this process held.

Source: kernel.org, Documentation/filesystems/proc.rst: VmHWM, and what writing 5 to clear_refs does.
"""

from __future__ import annotations

from pathlib import Path

from validation.machine.files import read_text

_RESET = "5"


class PeakMemory:
    """The peak of the process's resident memory from here on; of its whole life where it cannot be reset."""

    def __init__(self, process: Path = Path("/proc/self")) -> None:
        self._status = process / "status"
        try:
            (process / "clear_refs").write_text(_RESET)
        except OSError:
            self.was_reset = False
        else:
            self.was_reset = True

    @property
    def mb(self) -> float | None:
        """Megabytes, 10^6; None where the system does not tell."""
        for line in (read_text(self._status) or "").splitlines():
            name, _, value = line.partition(":")
            if name == "VmHWM" and value.split()[:1]:
                return int(value.split()[0]) * 1024 / 1e6
        return None
