"""Write all that a module of TensorRT's bindings has, as JSON, in a process of its own. Arguments: FOLDER MODULE.

The result maps a dotted path, as `IBuilderConfig.set_flag`, to an entry: `kind` (class, method, property, value),
`returns` (the class of a property, or of a value), `writable` (of a property), and `signatures` of a method or of a
class's constructor: the parameters' names with whether they have a default, and what is returned.
"""

import importlib
import inspect
import json
import re
import sys

_PREFIX = re.compile(r"\btensorrt\w*(\.tensorrt\w*)*\.")
_SIGNATURE = re.compile(r"^(?:\d+\. )?\w*\((.*)\)(?: -> (.+))?$")


def main(folder, name):
    sys.path.insert(0, folder)
    module = importlib.import_module(name)
    found = {}
    for key in dir(module):
        describe(key, getattr(module, key), found)
    json.dump(found, sys.stdout)


def describe(path, value, found):
    """Add an attribute of the module; of a class, all that it has."""
    if not isinstance(value, type):
        kind = "method" if callable(value) else "value"
        found[path] = {"kind": kind, "signatures": signatures(value), "returns": type(value).__qualname__}
        return
    found[path] = {"kind": "class", "signatures": signatures(value.__init__)}
    for key in dir(value):
        describe_member(path, value, key, found)


def describe_member(path, owner, key, found):
    held = inspect.getattr_static(owner, key)
    if isinstance(held, type):
        if key != "__class__":
            describe(f"{path}.{key}", held, found)
    elif isinstance(held, property) or type(held).__name__ in {"getset_descriptor", "static_property"}:
        returns = next((each["returns"] for each in signatures(getattr(held, "fget", None))), "")
        writable = getattr(held, "fset", None) is not None
        found[f"{path}.{key}"] = {"kind": "property", "returns": returns, "writable": writable}
    elif callable(held) or isinstance(held, staticmethod | classmethod):
        found[f"{path}.{key}"] = {"kind": "method", "signatures": signatures(getattr(owner, key))}
    else:
        returns = path if isinstance(held, owner) else type(held).__name__
        found[f"{path}.{key}"] = {"kind": "value", "returns": returns}


def signatures(function):
    """Out of what pybind11 writes into docstrings: one, or several that are numbered."""
    lines = [_PREFIX.sub("", line.strip()) for line in (getattr(function, "__doc__", "") or "").splitlines()]
    overloaded = [line for line in lines if re.match(r"\d+\. \w+\(", line)]
    matches = [_SIGNATURE.match(line) for line in overloaded or lines[:1]]
    return [{"parameters": parameters(match[1]), "returns": match[2] or ""} for match in matches if match]


def parameters(text):
    """[name, has a default] of each, in order."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    named = [re.match(r"\s*([*\w/]*)(.*)", part, re.DOTALL) for part in parts if part.strip()]
    return [[match[1], re.search(r"(^|[^=])= ?", match[2]) is not None] for match in named]


if __name__ == "__main__":
    main(*sys.argv[1:])
