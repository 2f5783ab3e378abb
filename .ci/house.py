#!/usr/bin/python3
"""Counts of how readable a tree of this project is: words, names, circles, lengths.

    .ci/house.py [PATH]    PATH is a checkout, "." by default; old layouts are understood too

Prints, for each crate, the share of doc comments whose first word is one of NARROW or of WIDE;
type names that stand twice; circles of files by their imports; the longest files and functions.
It reads the text and compiles nothing, so that one script can be run on two commits.
"""

import os
import re
import sys
from collections import defaultdict

PRONOUNS = """it its it's they them their theirs that those this these he him his she her one
we our you your who whose whom whoever whosever what whatever whichever which nobody somebody
everybody anybody someone everyone anyone nothing something everything anything none"""
NARROW = set(PRONOUNS.split())
WIDE = NARROW | set("of how if whether where when why under from for to by in on as so".split())

CRATES = [
    ("module", ["src"], ["src/nginx"]),
    ("nginx", ["nginx/src", "src/nginx"], []),
    ("authgear", ["authgear/src"], []),
    ("tests", ["tests"], []),
]


def rust_files(root, folders, without=()):
    for folder in folders:
        for at, _, names in sorted(os.walk(os.path.join(root, folder))):
            inside = os.path.relpath(at, root)
            if any(inside == w or inside.startswith(w + "/") for w in without):
                continue
            for name in sorted(names):
                if name.endswith(".rs"):
                    yield os.path.join(inside, name)


def read(root, file):
    with open(os.path.join(root, file), encoding="utf-8") as source:
        return source.read()


TOKEN = re.compile(
    r"""(?P<line>//[^\n]*) | (?P<block>/\*.*?\*/) | (?P<raw>\b[bc]?r(?P<h>\#*)".*?"(?P=h))
      | (?P<str>"(?:\\.|[^"\\])*") | (?P<char>'(?:\\[^']+|[^'\\])')""",
    re.S | re.X,
)


def code(text):
    """The text with comments and the contents of literals blanked, lines kept."""
    return TOKEN.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def without_tests(text):
    """The code without `#[cfg(test)] mod ... { ... }`."""
    while match := re.search(r"#\[cfg\(test\)\]\s*mod\s+\w+\s*\{", text):
        end = end_of_block(text, match.end() - 1)
        blank = re.sub(r"[^\n]", " ", text[match.start() : end])
        text = text[: match.start()] + blank + text[end:]
    return text


def end_of_block(text, at):
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return i + 1
    return len(text)


def doc_comments(text):
    """First words of the blocks of `///` and `//!`."""
    inside = None
    for line in text.splitlines():
        match = re.match(r"\s*(///|//!)(?!/)\s?(.*)", line)
        kind = match and match.group(1)
        if match and kind != inside:
            word = re.match(r"[^\w`\[]*([\w'`\[]+)", match.group(2))
            yield word.group(1).lower() if word else ""
        inside = kind


def words(root):
    print("doc comments that open with a pronoun, What or Who (narrow), or also Of, How, If ... (wide)")
    every = [0, 0, 0]
    for name, folders, without in CRATES:
        count = [0, 0, 0]
        for file in rust_files(root, folders, without):
            for first in doc_comments(read(root, file)):
                count[0] += 1
                count[1] += first in NARROW
                count[2] += first in WIDE
        every = [a + b for a, b in zip(every, count)]
        print(f"  {name:9} {shares(count)}")
    print(f"  {'all':9} {shares(every)}")


def shares(count):
    total, narrow, wide = count
    part = lambda n: f"{n:4} ({100 * n / max(total, 1):4.1f} %)"
    return f"{total:5} comments   narrow {part(narrow)}   wide {part(wide)}"


def names(root):
    where = defaultdict(set)
    for name, folders, without in CRATES:
        for file in rust_files(root, folders, without):
            text = without_tests(code(read(root, file)))
            # Types of the tests' own binaries may repeat: only their library is counted.
            if name == "tests" and not file.startswith("tests/support/"):
                continue
            for match in re.finditer(r"^[ \t]*(?:pub(?:\([^)]*\))? )?(?:unsafe )?"
                                     r"(?:struct|enum|trait|union|type) (\w+)", text, re.M):
                # An indented `type` is an associated type.
                if not re.match(r"[ \t]+.*\btype ", match.group()):
                    where[match.group(1)].add(file)
    twice = {name: files for name, files in where.items() if len(files) > 1}
    print(f"\ntype names that stand twice: {len(twice)}")
    for name in sorted(twice):
        print(f"  {name:18} {' '.join(sorted(twice[name]))}")


USE = re.compile(r"\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
PATH = re.compile(r"(?<![\w:])(crate|self|super|[a-z_]\w*)((?:::\w+)+)")


def flatten(tree):
    """Paths of a tree of `use`."""
    tree = tree.strip()
    at = tree.find("{")
    if at < 0:
        return [re.split(r"\s+as\s+", tree)[0].replace("::*", "")]
    prefix, depth, part, parts = tree[:at], 0, "", []
    for c in tree[at + 1 : tree.rfind("}")]:
        depth += (c == "{") - (c == "}")
        if c == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += c
    return [prefix + p for part in parts + [part] if part.strip() for p in flatten(part)]


def module_of(file, src):
    parts = file[len(src) + 1 : -3].split("/")
    return tuple(p for p in parts if p not in ("lib", "mod"))


def arrows(root, src, without=()):
    """Which file imports which; a parent that re-exports its child does not import it."""
    files = [f for f in rust_files(root, [src], without) if "/tests" not in f]
    modules = {module_of(file, src): file for file in files}
    exports, paths = {}, {}

    def absolute(module, path):
        first, *rest = path.split("::")
        if first == "crate":
            base = ()
        elif first == "self":
            base = module
        elif first == "super":
            base = module[:-1]
            while rest[:1] == ["super"]:
                base, rest = base[:-1], rest[1:]
        elif module + (first,) in modules:
            base = module + (first,)
        else:
            return None
        return base + tuple(rest)

    for module, file in modules.items():
        text = without_tests(code(read(root, file)))
        found = []
        for public, tree in USE.findall(text):
            for path in flatten(re.sub(r"\s+", " ", tree)):
                path = absolute(module, path.replace(" ", "").removesuffix("::self"))
                if path is not None:
                    found.append((path, bool(public)))
                    if public and path:
                        exports[module + (path[-1],)] = path
        for first, rest in PATH.findall(USE.sub("", text)):
            path = absolute(module, first + rest)
            if path is not None:
                found.append((path, False))
        paths[module] = found

    def target(path, depth=0):
        # The facade of `nginx`: `crate::nginx::Request` is in nginx/request.rs.
        for n in range(len(path), -1, -1):
            if n < len(path) and path[: n + 1] in exports and depth < 8:
                return target(exports[path[: n + 1]] + path[n + 1 :], depth + 1)
            if path[:n] in modules:
                return path[:n]

    graph = defaultdict(set)
    for module, found in paths.items():
        for path, public in found:
            to = target(path)
            is_child = to is not None and to[: len(module)] == module
            if to is not None and to != module and not (public and is_child):
                graph[modules[module]].add(modules[to])
    return graph


def components(graph):
    """Sets of files that all reach each other."""

    def reach(start):
        seen, left = set(), [start]
        while left:
            for to in graph.get(left.pop(), ()):
                if to not in seen:
                    seen.add(to)
                    left.append(to)
        return seen

    reached = {file: reach(file) for file in list(graph)}
    found = {frozenset(b for b in reached[a] if a in reached.get(b, ())) for a in reached if a in reached[a]}
    return sorted((sorted(c) for c in found), key=lambda c: (-len(c), c))


def circles(root):
    print("\ncircles of files")
    for _, folders, without in CRATES[:3]:
        for src in folders:
            if not os.path.isdir(os.path.join(root, src)):
                continue
            found = components(arrows(root, src, without))
            print(f"  {src}: {len(found) or 'none'}")
            for circle in found:
                print(f"    {len(circle)}: {' '.join(circle)}")


def lengths(root):
    files, functions = [], []
    for name, folders, without in CRATES:
        for file in rust_files(root, folders, without):
            text = read(root, file)
            files.append((text.count("\n"), file))
            blank = code(text)
            for match in re.finditer(r"\bfn (\w+)[^;{]*\{", blank):
                end = end_of_block(blank, match.end() - 1)
                functions.append((blank.count("\n", match.start(), end) + 1, file, match.group(1)))
    print("\nlongest files (lines)")
    for lines, file in sorted(files, reverse=True)[:8]:
        print(f"  {lines:5} {file}")
    print("\nlongest functions (lines), tests included")
    for lines, file, function in sorted(functions, reverse=True)[:8]:
        print(f"  {lines:5} {file} {function}")


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else "."
    if len(sys.argv) > 2 or not os.path.isdir(os.path.join(root, "authgear/src")):
        sys.exit(__doc__)
    words(root)
    names(root)
    circles(root)
    lengths(root)


if __name__ == "__main__":
    main()
