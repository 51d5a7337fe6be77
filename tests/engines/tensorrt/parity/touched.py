"""Reads code that uses TensorRT as one version would run it, and tells what it touches that the version lacks.

Types flow from `trt` through the signatures of the genuine bindings; `hasattr` is answered by them too, so that what a
version never reaches is not held against it. No line of the code is run.
"""

import ast

from kinds import Class, Function, Known, Lost, Many, Method, Module, Ours, OursMethod, Row, Thing, join, matters

ALIASES = {"IParserError": "ParserError", "IEngineInspector": "EngineInspector"}
"""C++ names in signatures, for classes that Python calls otherwise."""
SAME_ELEMENTS = {"list", "tuple", "sorted", "iter", "reversed"}
NO_MATTER = frozenset({"any", "all", "bool", "bytes", "int", "isinstance", "len", "memoryview", "repr", "str"})
DEPTH = 30
ENDS = object()
"""Of a statement: what follows it is not reached."""


class Frame:
    """A call that is being read."""

    def __init__(self, file):
        self.file, self.returns, self.yields = file, [], []


class Reader:
    """Reads files of one package against one version's API.

    Attributes:
        problems: `file:line: what` in the order found.
        touched: paths that were used, or asked for with hasattr.
        asked: those asked for, alone.
        dynamic: paths of classes whose members are chosen by a name that is known only at run time.
        seen: (file, line, column) of the attributes of TensorRT's that were reached.
    """

    def __init__(self, sources, api):
        self.api, self.problems, self.touched, self.asked, self.dynamic, self.seen = api, [], set(), set(), set(), set()
        self.names, self.members, self.classes, self.memo, self.stack, self.walked = {}, {}, {}, {}, [], set()
        self.trees = {file: ast.parse(text) for file, text in sources.items()}
        for file, tree in self.trees.items():
            for node in tree.body:
                if isinstance(node, ast.FunctionDef):
                    self.names[file, node.name] = Function(node, file)
                elif isinstance(node, ast.ClassDef):
                    self.names[file, node.name] = node
                    self.classes[node.name] = file, node, {}

    def read(self):
        """Follow every function and class of the package that others outside may call."""
        for found in list(self.names.values()):
            if isinstance(found, Function) and not found.node.name.startswith("_"):
                self.call_function(found, [], {})
        return self

    # --- what is said about the code

    def problem(self, node, text):
        line = f"{self.stack[-1].file}:{node.lineno}: {text}"
        if line not in self.problems:
            self.problems.append(line)

    def mark(self, node):
        self.seen.add((self.stack[-1].file, node.lineno, node.col_offset, node.attr))

    # --- attributes

    def member(self, kind, name, node, writes=False):
        """The kind of an attribute; a problem when this version lacks it."""
        match kind:
            case Module():
                return self.entry(name, node, bound=True)
            case Class(path):
                return self.entry(f"{path}.{name}", node, bound=False)
            case Thing(path):
                return self.entry(f"{path}.{name}", node, bound=True, writes=writes)
            case Ours(owner, base):
                if (owner, name) in self.members:
                    return self.members[owner, name]
                if owner in self.classes and (method := self.method(owner, name)):
                    is_property = any(getattr(mark, "id", "") == "property" for mark in method.node.decorator_list)
                    return self.call_function(method, [kind], {}) if is_property else OursMethod(kind, name)
                return self.entry(f"{base}.{name}", node, bound=True) if f"{base}.{name}" in self.api else None
            case Lost(origin):
                self.problem(node, f".{name} of what {origin} gives, of which the bindings tell no class")
        return None

    def entry(self, path, node, bound, writes=False):
        self.touched.add(path)
        found = self.api.get(path)
        if found is None:
            self.problem(node, f"{path} does not exist")
            return Lost(path)
        if writes and not (found["kind"] == "property" and found["writable"]):
            self.problem(node, f"{path} cannot be set")
        if found["kind"] == "class":
            return Class(path)
        return Method(path, bound) if found["kind"] == "method" else self.returned(found["returns"], path)

    def returned(self, text, origin):
        """The kind of what a signature says is returned."""
        text = text.split("::")[-1]
        name = ALIASES.get(text, text)
        if self.api.get(name, {}).get("kind") == "class":
            return Thing(name)
        return None if name in {"int", "str", "bool", "float", "None", "bytes", "memoryview"} else Lost(origin)

    # --- calls

    def call(self, node, env):
        """The kind of what a call gives back."""
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        arguments = [self.kind(each.value if isinstance(each, ast.Starred) else each, env) for each in node.args]
        named = {each.arg: self.kind(each.value, env) for each in node.keywords}
        if name in {"hasattr", "getattr"} and name not in env:
            return self.ask(node, arguments, name)
        target = self.kind(node.func, env)
        match target:
            case Class(path):
                self.check_call(node, path, skipped=1)
                return Thing(path)
            case Method(path, bound):
                self.check_call(node, path, skipped=int(bound and path.count(".") > 0))
                first = next(iter(self.api[path]["signatures"]), {"returns": "?"})
                return self.returned(first["returns"], path)
            case Function():
                return self.call_function(target, arguments, named)
            case OursMethod(owner, method):
                return self.call_function(self.method(owner.name, method), [owner, *arguments], named)
            case Ours(owner, _) if isinstance(node.func, ast.Name):
                self.construct(target, arguments, named)
                return Ours(owner, target.base)
        return self.call_other(node, name, arguments)

    def call_other(self, node, name, arguments):
        """Functions that are neither TensorRT's nor read here."""
        first = arguments[0] if arguments else None
        if name in SAME_ELEMENTS:
            return first if isinstance(first, Many) else None
        if name == "next" and isinstance(first, Many):
            return join(first.each, *arguments[1:])
        if name == "zip":
            return Many(Row(tuple(self.element(each) for each in arguments)))
        if name == "enumerate":
            return Many(Row((None, self.element(first))))
        if name in NO_MATTER or not any(isinstance(each, Many | Row) and matters(each) for each in arguments):
            return None
        return Lost(f"{ast.unparse(node.func)}()")

    def ask(self, node, arguments, name):
        """hasattr and getattr: what the version answers."""
        owner, key = arguments[0], node.args[1]
        if not isinstance(owner, Module | Class | Thing):
            return None
        if not isinstance(key, ast.Constant):
            self.dynamic.add(getattr(owner, "path", ""))
            return Thing(owner.path) if name == "getattr" else None
        path = f"{owner.path}.{key.value}" if hasattr(owner, "path") else key.value
        self.touched.add(path)
        self.asked.add(path)
        if name == "hasattr":
            return Known(path in self.api)
        if path not in self.api and len(node.args) > 2:
            return arguments[2]
        return self.member(owner, key.value, node)

    def check_call(self, node, path, skipped):
        """Whether one of the signatures takes as many arguments, and those names."""
        signatures = self.api[path]["signatures"]
        if not signatures or any(isinstance(each, ast.Starred) for each in node.args) or None in _names(node):
            return
        if not any(_fits(node, each["parameters"][skipped:]) for each in signatures):
            wanted = " or ".join(", ".join(name for name, _ in each["parameters"][skipped:]) for each in signatures)
            self.problem(node, f"{path} takes ({wanted}), not ({ast.unparse(node)})")

    def call_function(self, function, arguments, named):
        """Read a function's body with its arguments; the kind of what it returns."""
        key = id(function.node), repr(arguments), repr(named), repr(function.outer)
        if key in self.memo or len(self.stack) > DEPTH:
            return self.memo.get(key)
        self.walked.add((id(function.node), repr(arguments[:1])))
        self.memo[key] = None  # for a function that calls itself
        env = dict(function.outer)
        names = [each.arg for each in (*function.node.args.posonlyargs, *function.node.args.args)]
        env |= dict.fromkeys([*names, *(each.arg for each in function.node.args.kwonlyargs)])
        env |= dict(zip(names, arguments, strict=False)) | named
        self.stack.append(Frame(function.file))
        self.block(function.node.body, env)
        frame = self.stack.pop()
        if frame.yields or not frame.returns:
            result = Many(join(*frame.yields)) if frame.yields else None
        else:
            result = join(*frame.returns)
        self.memo[key] = result
        return result

    # --- classes that are read

    def method(self, owner, name):
        """A method of a class that is read, or None."""
        file, node, outer = self.classes[owner]
        found = (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == name)
        return next((Function(each, file, outer) for each in found), None)

    def construct(self, ours, arguments, named):
        """Make an instance: its fields first, then whatever its methods do."""
        node = self.classes[ours.name][1]
        fields = [each.target.id for each in node.body if isinstance(each, ast.AnnAssign)]
        if self.method(ours.name, "__init__"):
            self.call_function(self.method(ours.name, "__init__"), [ours, *arguments], named)
        else:
            for name, kind in {**dict(zip(fields, arguments, strict=False)), **named}.items():
                self.members[ours.name, name] = join(kind, self.members.get((ours.name, name)))
        for each in node.body:
            if isinstance(each, ast.FunctionDef) and (id(each), repr([ours])) not in self.walked:
                static = any(getattr(mark, "id", "") == "staticmethod" for mark in each.decorator_list)
                self.call_function(
                    self.method(ours.name, each.name), [] if static else [ours, *self.given(ours, each)], {}
                )

    def given(self, ours, node):
        """What TensorRT calls an overridden method with."""
        found = self.api.get(f"{ours.base}.{node.name}")
        if not found or node.name.startswith("_"):
            return []
        wanted = self.signature_of(ours.base, node.name)
        if len(wanted) != len(node.args.args):
            self.stack.append(Frame(self.classes[ours.name][0]))
            self.problem(node, f"{ours.base}.{node.name} is called with ({', '.join(wanted)})")
            self.stack.pop()
        if node.name == "log":
            return [Thing("ILogger.Severity")]
        return []

    def signature_of(self, base, name):
        return [each for each, _ in self.api[f"{base}.{name}"]["signatures"][0]["parameters"]]

    # --- statements: whether what follows them can be reached

    def block(self, nodes, env):
        return all(self.statement(node, env) for node in nodes)

    def statement(self, node, env):
        return getattr(self, f"on_{type(node).__name__.lower()}")(node, env) is not ENDS

    def on_return(self, node, env):
        self.stack[-1].returns.append(self.kind(node.value, env))
        return ENDS

    def on_raise(self, node, env):
        self.kind(node.exc, env)
        return ENDS

    def on_continue(self, _node, _env):
        return ENDS

    on_break = on_continue

    def on_pass(self, _node, _env):
        """Nothing to read."""

    on_import = on_importfrom = on_delete = on_global = on_nonlocal = on_pass

    def on_expr(self, node, env):
        self.kind(node.value, env)

    on_augassign = on_expr

    def on_assign(self, node, env):
        kind = self.kind(node.value, env)
        if ast.unparse(node).startswith("trt = importlib.import_module("):
            kind = Module()
        for target in node.targets:
            self.bind(target, kind, env)

    def on_annassign(self, node, env):
        if node.value is not None:
            self.bind(node.target, self.kind(node.value, env), env)

    def on_for(self, node, env):
        self.bind(node.target, self.element(self.kind(node.iter, env)), env)
        self.block(node.body, env)
        self.block(node.orelse, env)

    def on_while(self, node, env):
        self.kind(node.test, env)
        self.block(node.body, env)

    def on_with(self, node, env):
        for item in node.items:
            kind = self.kind(item.context_expr, env)
            if item.optional_vars is not None:
                self.bind(item.optional_vars, kind, env)
        return None if self.block(node.body, env) else ENDS

    def on_try(self, node, env):
        through = self.block([*node.body, *node.orelse], env)
        others = [self.block(handler.body, dict(env)) for handler in node.handlers]
        return None if self.block(node.finalbody, env) and (through or any(others)) else ENDS

    def on_match(self, node, env):
        self.kind(node.subject, env)
        for case in node.cases:
            self.block(case.body, dict(env))

    def on_functiondef(self, node, env):
        env[node.name] = Function(node, self.stack[-1].file, dict(env))
        self.call_function(env[node.name], [], {})  # it may be handed to somebody who calls it

    def on_classdef(self, node, env):
        bases = [kind.path for kind in (self.kind(each, env) for each in node.bases) if isinstance(kind, Class)]
        self.classes[node.name] = self.stack[-1].file, node, dict(env)
        env[node.name] = Ours(node.name, bases[0] if bases else "")

    def on_if(self, node, env):
        truth = self.truth(node.test, env)
        if truth is not None:
            return None if self.block(node.body if truth else node.orelse, env) else ENDS
        other = dict(env)
        through = self.block(node.body, env), self.block(node.orelse, other)
        if all(through):
            env.update({name: join(env.get(name), other.get(name)) for name in {*env, *other}})
        elif through[1]:
            env.update(other)
        return None if any(through) else ENDS

    def bind(self, target, kind, env):
        match target:
            case ast.Name(id=name):
                env[name] = kind
            case ast.Starred(value=inner):
                self.bind(inner, kind, env)
            case ast.Tuple(elts=parts):
                whole = isinstance(kind, Row) and len(kind.parts) == len(parts)
                for index, part in enumerate(parts):
                    self.bind(part, kind.parts[index] if whole else self.element(kind), env)
            case ast.Attribute(value=owner, attr=name):
                self.set_member(target, self.kind(owner, env), name, kind)
            case ast.Subscript():
                self.kind(target.value, env)

    def set_member(self, node, owner, name, kind):
        if isinstance(owner, Ours):
            self.members[owner.name, name] = join(kind, self.members.get((owner.name, name)))
        elif isinstance(owner, Thing):
            self.mark(node)
            self.member(owner, name, node, writes=True)

    def element(self, kind):
        if isinstance(kind, Many):
            return kind.each
        if isinstance(kind, Row):
            return join(*kind.parts)
        return Lost(f"iterating over {kind}") if isinstance(kind, Thing | Lost) else None

    # --- expressions

    def truth(self, node, env):
        """True, False, or None where the version does not decide it."""
        match node:
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                known = self.truth(inner, env)
                return None if known is None else not known
            case ast.BoolOp(op=op, values=values):
                stops = isinstance(op, ast.Or)
                known = []
                for value in values:
                    known.append(self.truth(value, env))
                    if known[-1] is stops:
                        return stops
                return None if None in known else not stops
            case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot() as op], comparators=[ast.Constant(value=None)]):
                kind = self.kind(left, env)
                return isinstance(op, ast.Is) if kind == Known(None) else None
        kind = self.kind(node, env)
        return bool(kind.value) if isinstance(kind, Known) else None

    def kind(self, node, env):
        """What an expression is; reads all that it holds."""
        if node is None:
            return None
        read = getattr(self, f"is_{type(node).__name__.lower()}", None)
        if read is not None:
            return read(node, env)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.kind(child, env)
        return None

    def is_constant(self, node, _env):
        return Known(node.value) if node.value is None or isinstance(node.value, bool) else None

    def is_name(self, node, env):
        return env[node.id] if node.id in env else self.named(node.id)

    def is_attribute(self, node, env):
        kind = self.kind(node.value, env)
        if isinstance(kind, Module | Class | Thing | Lost | Ours):
            self.mark(node)
        return self.member(kind, node.attr, node)

    def is_call(self, node, env):
        return self.call(node, env)

    def is_ifexp(self, node, env):
        truth = self.truth(node.test, env)
        if truth is None:
            return join(self.kind(node.body, env), self.kind(node.orelse, env))
        return self.kind(node.body if truth else node.orelse, env)

    def is_boolop(self, node, env):
        truth = self.truth(node, env)
        return None if truth is None else Known(truth)

    def is_unaryop(self, node, env):
        return self.is_boolop(node, env) if isinstance(node.op, ast.Not) else self.kind(node.operand, env)

    def is_lambda(self, node, env):
        self.kind(node.body, env)  # called by somebody, some time

    def is_yield(self, node, env):
        self.stack[-1].yields.append(self.kind(node.value, env))

    def is_yieldfrom(self, node, env):
        self.stack[-1].yields.append(self.element(self.kind(node.value, env)))

    def is_tuple(self, node, env):
        return Row(tuple(self.kind(each, env) for each in node.elts))

    def is_list(self, node, env):
        return Many(join(*(self.kind(each, env) for each in node.elts)))

    is_set = is_list

    def is_subscript(self, node, env):
        self.kind(node.slice, env)
        return self.element(self.kind(node.value, env))

    def is_generatorexp(self, node, env):
        return self.comprehension(node, dict(env))

    is_listcomp = is_setcomp = is_dictcomp = is_generatorexp

    def comprehension(self, node, env):
        for each in node.generators:
            self.bind(each.target, self.element(self.kind(each.iter, env)), env)
            for test in each.ifs:
                self.kind(test, env)
        if isinstance(node, ast.DictComp):
            self.kind(node.key, env)
            return Many(self.kind(node.value, env))
        return Many(self.kind(node.elt, env))

    def named(self, name):
        """A name of the module or of one that it imports from, within the package."""
        file = self.stack[-1].file
        found = self.names.get((file, name)) or self.names.get((self.imported(file, name), name))
        if isinstance(found, ast.ClassDef):
            return Ours(found.name)
        return found

    def imported(self, file, name):
        for node in ast.walk(self.trees[file]):
            if isinstance(node, ast.ImportFrom) and any(each.name == name and not each.asname for each in node.names):
                return f"{(node.module or '').rpartition('.')[2]}.py"
        return ""


def _names(call):
    return [each.arg for each in call.keywords]


def _fits(call, parameters):
    names = [name for name, _ in parameters]
    given = {*names[: len(call.args)], *_names(call)}
    needed = {name for name, optional in parameters if not optional}
    return len(call.args) <= len(names) and set(_names(call)) <= set(names[len(call.args) :]) and needed <= given
