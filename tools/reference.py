"""The reference of the library as pages of the site: for each module its public names, signatures, parameters, docstrings.

All is read from the source of tl_nb/, where a parameter is documented by the remark behind it. Nothing is imported."""
import ast
import copy
import io
import re
import tokenize
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from inspect import cleandoc
from pathlib import Path

from notebooks import LIBRARY, NBS, read, title

WIDE = 92  # characters of a signature in one line
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
EMPTY = ("", None)


# --- reading ----------------------------------------------------------------------------------------------------------

def remarks(text):
    "{line: (the remark on it, whether it stands alone)} of some source."
    found = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    return {t.start[0]: (t.string.lstrip("# ").strip(), not t.line[:t.start[1]].strip()) for t in found}


def remark(comments, line):
    "What is said of something on a line: the remark behind it, or the lines of remarks above it."
    if line in comments and not comments[line][1]: return comments[line][0]
    above = []
    while comments.get(line - 1, ("", False))[1] and not comments[line - 1][0].startswith("%%"):
        line -= 1
        above.insert(0, comments[line][0])
    return " ".join(above)


@dataclass
class Parameter:
    name: str  # with its stars
    type: str = ""
    default: str = ""
    said: str = ""

    def __str__(self):
        gap = " = " if self.type else "="
        return self.name + (f": {self.type}" if self.type else "") + (f"{gap}{self.default}" if self.default else "")


def unparsed(node): return ast.unparse(node) if node is not None else ""


def parameters(node, comments):
    "The parameters of a function, without self and cls; of several on one line, the remark is on the last."
    a, found, lines = node.args, [], []
    def add(arg, default=None, star=""):
        found.append(Parameter(star + arg.arg, unparsed(arg.annotation), unparsed(default)))
        lines.append((default or arg).end_lineno)
    plain = [*a.posonlyargs, *a.args]
    for arg, default in zip(plain, [None] * (len(plain) - len(a.defaults)) + a.defaults): add(arg, default)
    if a.vararg: add(a.vararg, star="*")
    elif a.kwonlyargs: found.append(Parameter("*")), lines.append(None)
    for arg, default in zip(a.kwonlyargs, a.kw_defaults): add(arg, default)
    if a.kwarg: add(a.kwarg, star="**")
    for i, (p, line) in enumerate(zip(found, lines)):
        if line and line not in lines[i + 1:]: p.said = remark(comments, line)
    return [p for i, p in enumerate(found) if i or p.name not in ("self", "cls")]


def returned(node, comments):
    "(type, what is said of it) of what a function returns; the remark is its own where no parameter stands on the line."
    if node.returns is None: return "", ""
    line = node.returns.end_lineno
    shared = {n.end_lineno for n in ast.walk(node.args) if hasattr(n, "end_lineno")}
    return unparsed(node.returns), "" if line in shared else comments.get(line, ("", True))[0]


@dataclass
class Entry:
    "One public name."
    name: str
    kind: str  # function, class, property, value
    doc: str = ""
    parameters: list = field(default_factory=list)
    returns: tuple = EMPTY
    parts: list = field(default_factory=list)  # of a class: its methods and properties
    source: str = ""  # of a value

    @property
    def signature(self):
        "As one would write it, on one line or with a parameter a line."
        if self.kind == "value": return f"{self.name} = {self.source}"
        end = f" -> {self.returns[0]}" if self.returns[0] else ""
        if self.kind == "property": return f"{self.name}{end.replace(' ->', ':')}"
        short = f"{self.name}({', '.join(map(str, self.parameters))}){end}"
        if len(short) <= WIDE: return short
        return f"{self.name}(\n    " + ",\n    ".join(map(str, self.parameters)) + f",\n){end}"


def decorators(node): return [unparsed(d) for d in node.decorator_list]


def doc(node): return cleandoc(ast.get_docstring(node) or "")


def is_public(name): return not name.startswith("_") or name == "__call__"


def function(node, comments, name=None):
    "The entry of a function or method."
    marks = decorators(node)
    kind = "property" if any(m in ("property", "cached_property") or "as_prop=True" in m for m in marks) else "function"
    return Entry(name or node.name, kind, doc(node), parameters(node, comments), returned(node, comments))


def fields(node, comments):
    "The fields of a dataclass as parameters."
    own = [n for n in node.body if isinstance(n, ast.AnnAssign) and "ClassVar" not in unparsed(n.annotation)]
    return [Parameter(n.target.id, unparsed(n.annotation), unparsed(n.value), remark(comments, n.end_lineno)) for n in own
            if not n.target.id.startswith("_")]


class Module:
    "A module of the library, as read from its source."
    def __init__(self, path):
        self.path, self.name, self.text = Path(path), Path(path).stem, Path(path).read_text(encoding="utf-8")
        self.tree, self.comments = ast.parse(self.text), remarks(self.text)
        self.classes = {n.name: n for n in self.tree.body if isinstance(n, ast.ClassDef)}

    @property
    def doc(self): return doc(self.tree)

    @property
    def notebook(self):
        "The notebook that it is exported from, relative to nbs/; None where it has none."
        found = re.search(r"^# AUTOGENERATED!.* \.\./nbs/(\S+\.ipynb)\.$", self.text, re.M)
        return found and found[1]

    @cached_property
    def public(self):
        "The names of `__all__`."
        lists = [n.value for n in self.tree.body if isinstance(n, ast.Assign) and unparsed(n.targets[0]) == "__all__"]
        return ast.literal_eval(lists[0]) if lists else []

    @cached_property
    def patches(self):
        "{class: [function, …]} that fastcore's `@patch` adds to a class."
        found = {}
        for n in self.tree.body:
            if isinstance(n, FUNCTIONS) and any(m.startswith("patch") for m in decorators(n)):
                for one in unparsed(n.args.args[0].annotation).split("|"): found.setdefault(one.strip(), []).append(n)
        return found

    def bases(self, name):
        "A class and the private classes of this module that it is made from."
        node = self.classes.get(name)
        own = [unparsed(b) for b in node.bases] if node else []
        return [name, *(c for b in own if b.startswith("_") for c in self.bases(b))]

    def members(self, name):
        "Entries of the public methods and properties of a class, each name once."
        found = {}
        for c in self.bases(name):
            body = self.classes[c].body if c in self.classes else []
            for n in [*body, *self.patches.get(c, [])]:
                if isinstance(n, FUNCTIONS) and is_public(n.name):
                    found.setdefault(n.name, function(n, self.comments, f"{name}.{n.name}"))
        return list(found.values())

    def made_by(self, name):
        "The parameters that make an object of a class."
        for c in self.bases(name):
            if c not in self.classes: continue
            node = self.classes[c]
            init = [n for n in [*node.body, *self.patches.get(c, [])] if isinstance(n, FUNCTIONS) and n.name == "__init__"]
            if init: return parameters(init[0], self.comments)
            if any(m.startswith("dataclass") for m in decorators(node)): return fields(node, self.comments)
        return []

    def entry(self, name):
        "The entry of a public name; None for one that another module defines."
        for n in self.tree.body:
            if isinstance(n, FUNCTIONS) and n.name == name: return function(n, self.comments)
            if isinstance(n, ast.ClassDef) and n.name == name:
                return Entry(name, "class", doc(n), self.made_by(name), EMPTY, self.members(name))
            targets = n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else []
            names = [x.id for t in targets for x in ast.walk(t) if isinstance(x, ast.Name)]
            if name in names:
                source = unparsed(n.value)
                return Entry(name, "value", source=source if len(source) <= 4 * WIDE else source[:4 * WIDE] + " …")
        return None

    @property
    def entries(self): return [e for name in self.public if (e := self.entry(name))]

    @property
    def borrowed(self):
        "{name: module} of public names that other modules define."
        come = {a.asname or a.name: n.module for n in self.tree.body if isinstance(n, ast.ImportFrom) and n.level
                for a in n.names}
        return {name: come[name] for name in self.public if name in come and not self.entry(name)}


def modules(library=LIBRARY):
    "Every public module, by name."
    return [Module(p) for p in sorted(Path(library).glob("[a-z]*.py"))]


# --- writing ----------------------------------------------------------------------------------------------------------

def inline(text):
    "Text as HTML, with `code` as code."
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def paragraphs(text):
    "A docstring as HTML: paragraphs, and what is indented as it is."
    blocks = [b for b in re.split(r"\n\s*\n", text) if b.strip()]
    return "\n".join(f"<pre>{escape(b, quote=False)}</pre>" if re.match(r" {2,}|>>>", b) else f"<p>{inline(b)}</p>" for b in blocks)


def plain(text):
    "Text that Markdown leaves as it is."
    escaped = lambda part: re.sub(r"([\\<>$@*_\[\]])", r"\\\1", part)
    return "`".join(part if i % 2 else escaped(part) for i, part in enumerate(" ".join(text.split()).split("`")))


def raw(html): return f"```{{=html}}\n{html}\n```\n"


def table(entry):
    "The parameters of an entry and what it returns, as HTML; nothing where nothing is said of them."
    rows = [(f"<code>{escape(p.name)}</code>", p.type, p.default, p.said) for p in entry.parameters if p.name != "*"]
    if entry.returns[1]: rows.append(("returns", entry.returns[0], "", entry.returns[1]))
    if not any(said for *_, said in rows): return ""
    cell = lambda text: f"<td>{f'<code>{escape(text)}</code>' if text else ''}</td>"
    body = "\n".join(f"<tr><td>{n}</td>{cell(t)}{cell(d)}<td>{inline(said)}</td></tr>" for n, t, d, said in rows)
    return f"<table><thead><tr><th></th><th>type</th><th>default</th><th></th></tr></thead>\n<tbody>{body}</tbody></table>"


def section(entry, level=2):
    "An entry as Markdown."
    head = f"{'#' * level} {entry.name} {{#{entry.name}}}\n\n```python\n{entry.signature}\n```\n"
    text = "\n".join(part for part in (paragraphs(entry.doc), table(entry)) if part)
    return "\n".join([head, raw(text) if text else "", *(section(part, 3) for part in entry.parts)])


def lesson(module):
    "What the lesson of a module is called."
    path = NBS / module.notebook
    return title(read(path)).split(":")[0] if path.exists() else module.notebook


def front(name, about):
    "The front matter of a page."
    quoted = lambda s: '"' + s.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"---\ntitle: {quoted(name)}\ndescription: {quoted(' '.join(about.split()))}\n---\n"


def page(module):
    "The page of a module."
    names = " · ".join(f"[`{e.name}`](#{e.name})" for e in module.entries)
    back = f"Explained in its lesson, [{lesson(module)}](../{module.notebook}). " if module.notebook else ""
    others = "".join(f"\n\n`{name}` comes from [`tl_nb.{m}`]({m}.qmd#{name})." for name, m in module.borrowed.items())
    return "\n".join([front(f"tl_nb.{module.name}", module.doc.split("\n\n")[0]), f"{back}All modules are in the [reference](index.qmd).", "",
                      names + others, "", *(section(e) for e in module.entries)])


def contents(found):
    "The page that lists the modules."
    return "\n".join([front("The library", "Every public name of every module: signature, parameters, docstring"),
                      "A module is exported by one lesson, which explains it; its page here is for looking things up.\n",
                      *(f"- [`tl_nb.{m.name}`]({m.name}.qmd): {plain(m.doc.split(chr(10) * 2)[0])}" for m in found), ""])


def write(folder, library=LIBRARY):
    "Write the pages of the reference; returns their paths."
    found, folder = modules(library), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"index": contents(found)} | {m.name: page(m) for m in found}
    for name, text in texts.items(): (folder / f"{name}.qmd").write_text(text, encoding="utf-8")
    return [folder / f"{name}.qmd" for name in texts]
