"""A verdict as JUnit XML, which GitHub, GitLab and Jenkins show as test results.

Source: the schema of Jenkins' xUnit plugin, junit-10.xsd; GitLab reads the names, the times and the failures.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from xml.etree import ElementTree

from avcompress.spec import Check, check_text

# What XML 1.0 has no way to write: a class or an image may be called anything.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(
    suite: str,
    checks: Iterable[Check],
    created: datetime,
    seconds: float = 0.0,
    properties: Mapping[str, str] | None = None,
) -> str:
    """A test suite with a test case for each check.

    A check that could not be measured is an error, one whose limit is broken a failure. Without any check, one case
    says so, and fails: an empty verdict never passes.

    Args:
        suite: the recipe's name.
        checks: in the order of the contract.
        created: when the verdict was reached.
        seconds: that the measurements took.
        properties: what else a reader should know, by name.
    """
    cases = _cases(suite, tuple(checks))
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
    }
    took = f"{seconds:.3f}"
    root = ElementTree.Element("testsuites", {"name": "avcompress", "time": took, **counts})
    stamp = created.isoformat(timespec="seconds")
    inner = ElementTree.SubElement(
        root, "testsuite", {"name": _written(suite), **counts, "skipped": "0", "time": took, "timestamp": stamp}
    )
    if properties:
        listed = ElementTree.SubElement(inner, "properties")
        for name, value in properties.items():
            ElementTree.SubElement(listed, "property", {"name": _written(name), "value": _written(value)})
    inner.extend(cases)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _cases(suite: str, checks: tuple[Check, ...]) -> list[ElementTree.Element]:
    if not checks:
        case = ElementTree.Element("testcase", {"classname": _written(suite), "name": "contract", "time": "0"})
        ElementTree.SubElement(case, "failure", {"type": "contract", "message": "nothing was checked"})
        return [case]
    names = Counter(check.name for check in checks)
    return [_case(suite, check, names[check.name] > 1) for check in checks]


def _case(suite: str, check: Check, shared: bool) -> ElementTree.Element:
    # Two limits on one measurement: readers tell cases apart by their names.
    name = f"{check.name} {check.sense} {check.limit:g}" if shared else check.name
    case = ElementTree.Element("testcase", {"classname": _written(suite), "name": _written(name), "time": "0"})
    if check.passed:
        if check.note:
            ElementTree.SubElement(case, "system-out").text = _written(check.note)
        return case
    kind = "error" if math.isnan(check.measured) else "failure"
    text = _written(check_text(check))
    broken = ElementTree.SubElement(case, kind, {"type": "contract", "message": text})
    broken.text = _written(f"{name}: {text}" + (f"\n{check.note}" if check.note else ""))
    return case


def _written(text: str) -> str:
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)
