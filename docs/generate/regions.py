"""The parts of a page that are taken from elsewhere, so that they read well as plain Markdown too.

A code block after `<!-- file: PATH -->` is that file of the repository; with names behind the path
it is the definitions of these names, with #NAME the section of that name. What stands between
`<!-- generated: NAME -->` and `<!-- end of generated -->` is made by a function of that name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

INCLUDED = re.compile(
    r"^<!-- file: (?P<path>\S+)(?P<names>[^>]*) -->\n"
    r"```(?P<language>\w+)(?P<info>[^\n]*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
GENERATED = re.compile(
    r"^<!-- generated: (?P<name>\S+) -->\n(?P<text>.*?)^<!-- end of generated -->$",
    re.DOTALL | re.MULTILINE,
)
_SECTION_MARK = re.compile(r"^# --8<-- \[\w+:\w+\]\n\n?", re.MULTILINE)


def pages() -> list[Path]:
    """Every page that people read."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def included_files(text: str) -> Iterator[str]:
    """The paths of the files that a page shows."""
    for found in INCLUDED.finditer(text):
        yield found["path"]


def renewed(text: str, makers: Mapping[str, Callable[[], str]]) -> str:
    """The page with everything that it takes from elsewhere as it is there now.

    Raises:
        KeyError: A region or a name is not known.
    """

    def include(found: re.Match[str]) -> str:
        code = excerpt(ROOT / found["path"], found["names"].split())
        comment = f"<!-- file: {found['path']}{found['names']} -->"
        return f"{comment}\n```{found['language']}{found['info']}\n{code}```"

    def make(found: re.Match[str]) -> str:
        made = makers[found["name"]]()
        return f"<!-- generated: {found['name']} -->\n{made}<!-- end of generated -->"

    return GENERATED.sub(make, INCLUDED.sub(include, text))


def excerpt(file: Path, names: list[str]) -> str:
    """The file, or the definitions of the names in the order of the file, or a section."""
    source = file.read_text(encoding="utf-8")
    if names[:1] and names[0].startswith("#"):
        return _section(file, source, names[0].removeprefix("#"))
    source = _SECTION_MARK.sub("", source)
    if not names:
        return source
    wanted, missing, parts = set(names), set(names), list[str]()
    lines = source.splitlines(keepends=True)
    for node in ast.parse(source).body:
        defined = _defined(node) & wanted
        if defined:
            missing -= defined
            first = _first_line(node) - 1
            if parts:  # with the empty lines that stand before it in the file
                empty = first - next(n for n in range(first, 0, -1) if lines[n - 1].strip())
                parts.append("\n" * empty)
            parts.append("".join(lines[first : node.end_lineno]))
    if missing:
        raise KeyError(f"{file} defines no {', '.join(sorted(missing))}")
    return "".join(parts)


def _section(file: Path, source: str, name: str) -> str:
    """What stands between the marks of a section."""
    start, end = (f"# --8<-- [{edge}:{name}]\n" for edge in ("start", "end"))
    if source.count(start) != 1 or source.count(end) != 1:
        raise KeyError(f"{file} has no section {name}")
    return source.partition(start)[2].partition(end)[0].strip("\n") + "\n"


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement gives to something; `import` stands for all imports."""
    match node:
        case ast.Import() | ast.ImportFrom():
            return {"import"}
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            return {"__main__"}
        case _:
            return set()
