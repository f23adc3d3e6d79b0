"""Finds what could run what a file of others says: in Python by its syntax tree, in bash by words.

Names are followed through imports, wherever in a file these stand. It finds what is written, not
what somebody hides: it guards against oversights.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

# What is not to be named at all, nor what is in it. What must be used after all stands in
# `test_nothing_let_in.ALLOWED`, with the reason.
NEVER = (
    # code from data
    *("builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__", "runpy", "code"),
    *("importlib.util.spec_from_file_location", "importlib.machinery.SourceFileLoader", "imp"),
    # objects from data
    *("pickle.load", "pickle.loads", "pickle._load", "pickle._loads", "pickle.*"),
    *("pickle.Unpickler", "pickle._Unpickler", "_pickle", "cloudpickle", "dill", "jsonpickle"),
    *("marshal", "shelve", "joblib", "pandas.read_pickle", "torch.jit.load", "torch.package"),
    *("torch.serialization.add_safe_globals", "torch.serialization.safe_globals"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load"),
    *("yaml.unsafe_load_all", "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "yaml.*"),
    # a shell
    *("os.system", "os.popen", "os.startfile", "pty", "commands"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    # archives that somebody else unpacks, names that somebody else may take
    *("shutil.unpack_archive", "tempfile.mktemp"),
    # the network
    *("urllib.request", "http.client.HTTPConnection", "http.client.HTTPSConnection", "socket.*"),
    *("socket.socket", "socket.create_connection", "socket.create_server", "ftplib", "telnetlib"),
    *("requests", "httpx", "urllib3", "aiohttp", "gdown", "huggingface_hub", "torch.hub.load"),
    *("torch.utils.model_zoo", "torch.hub.load_state_dict_from_url", "webbrowser", "smtplib"),
    *("torch.hub.download_url_to_file", "ssl._create_unverified_context"),
)  # fmt: skip
BUILTINS = ("eval", "exec", "compile", "__import__")
# Methods of whatever object: the second is yacs', which runs a file that ends with .py.
METHODS = ("exec_module", "merge_from_file", "load_cfg", "unsafe_load")
_WEIGHTS = ("torch.load", "torch.serialization.load", "torch.hub.load_state_dict_from_url")
_UNPICKLERS = ("pickle.Unpickler", "pickle._Unpickler")


def in_python(source: str) -> list[str]:
    """Each thing that is found, by its name."""
    return list(_Module(ast.parse(source)).found())


class _Module:
    def __init__(self, tree: ast.Module) -> None:
        self.nodes = list(ast.walk(tree))
        self.names = {name: f"builtins.{name}" for name in BUILTINS}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for one in node.names:
                    self.names[one.asname or one.name.split(".")[0]] = (
                        one.name if one.asname else one.name.split(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for one in node.names:
                    self.names[one.asname or one.name] = f"{node.module}.{one.name}"

    def found(self) -> Iterator[str]:
        inner = {id(n.value) for n in self.nodes if isinstance(n, ast.Attribute)}
        called = {id(n.func) for n in self.nodes if isinstance(n, ast.Call)}
        for node in self.nodes:
            names = self._imported(node)
            if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner:
                names = [self._full(node)]
            for name in names:
                if entry := next((e for e in NEVER if f"{name}.".startswith(f"{e}.")), ""):
                    yield entry
                value = isinstance(node, ast.expr) and id(node) not in called
                if name in _WEIGHTS and value:
                    yield f"{name} in the place of a value"
            if isinstance(node, ast.Attribute) and node.attr in METHODS:
                yield node.attr
            if isinstance(node, ast.Call):
                yield from self._call(node)
            if isinstance(node, ast.ClassDef):
                yield from self._class(node)

    def _imported(self, node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [one.name for one in node.names]
        if isinstance(node, ast.ImportFrom) and not node.level:
            return [f"{node.module}.{one.name}" for one in node.names]
        return []

    def _full(self, node: ast.expr) -> str:
        """The dotted name that an expression has outside of its file; "" if it has none."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, "")
        if isinstance(node, ast.Attribute) and (before := self._full(node.value)):
            return f"{before}.{node.attr}"
        return ""

    def _call(self, node: ast.Call) -> Iterator[str]:
        name = self._full(node.func)
        values = {one.arg: one.value for one in node.keywords}

        def says(key: str, value: object) -> bool:
            return isinstance(values.get(key), ast.Constant) and values[key].value is value

        if name in _WEIGHTS and (not says("weights_only", True) or "pickle_module" in values):
            yield f"{name} without weights_only=True"
        if "shell" in values and not says("shell", False):
            yield "shell=True"
        if "allow_pickle" in values and not says("allow_pickle", False):
            yield "allow_pickle=True"
        if "trust_remote_code" in values and not says("trust_remote_code", False):
            yield "trust_remote_code=True"
        if "verify" in values and says("verify", False):
            yield "verify=False"
        unpacks = isinstance(node.func, ast.Attribute) and node.func.attr in {
            "extract",
            "extractall",
        }
        filtered = (
            isinstance(values.get("filter"), ast.Constant) and values["filter"].value == "data"
        )
        if unpacks and not filtered:
            yield "extract without a filter"

    def _class(self, node: ast.ClassDef) -> Iterator[str]:
        own = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
        if any(self._full(base) in _UNPICKLERS for base in node.bases) and "find_class" not in own:
            yield "an unpickler without find_class"


# ---------------------------------------------------------------------------- bash

_NEVER_SPLIT = re.compile(r"[#?$!]|\(\(|\{\w+:\+")  # after the dollar
_CLOSED_BY = {"$(": ")", "${": "}"}
_EXPANSION = re.compile(r"\$(?:[A-Za-z_]\w*|[*@\d#?$!-]|\{|\()")


def in_bash(script: str) -> list[str]:
    """Each thing that is found, with the line."""
    script = re.sub(r"<<'(\w+)'.*?\n\1\n", "\n", script, flags=re.DOTALL)
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in script.splitlines()]
    found = [
        f"{word}: {line.strip()}"
        for line in lines
        for word in ("eval", "source <(", "bash -c", "sh -c")
        if re.search(rf"(^|[\s;&|(]){re.escape(word)}(?!\w)", line)
    ]
    return [*found, *(f"unquoted: {line.strip()}" for line in lines if _unquoted(line))]


def _unquoted(line: str) -> bool:
    """Whether a line has an expansion that bash would split into words and look up as patterns.

    Where nothing is split, they need no quotes: assignments, numbers, (( )), and the alternative
    of ${NAME:+...}, whose own expansions are looked at.
    """
    inside, words = [""], [0]  # of what, from the outermost on; where its present word begins
    position = 0
    while position < len(line):
        rest = line[position:]
        step = 1
        if rest[0] == "\\":
            step = 2
        elif rest[0] == "'" and inside[-1] != '"':
            step = rest.find("'", 1) + 1 or len(rest)
        elif rest[0] == '"' and inside[-1] != '"':
            inside.append('"')
            words.append(words[-1])
        elif match := _EXPANSION.match(rest):
            assigned = re.match(r"\w+=", line[words[-1] : position])
            if inside[-1] != '"' and not assigned and not _NEVER_SPLIT.match(rest, 1):
                return True
            step = len(match[0])
            if match[0] in _CLOSED_BY:
                inside.append(_CLOSED_BY[match[0]])
                words.append(words[-1] if match[0] == "${" else position + step)
        elif rest[0] == inside[-1]:
            inside.pop()
            words.pop()
        elif rest[0] in " \t;&|(" and inside[-1] != '"':
            words[-1] = position + 1
        position += step
    return False
