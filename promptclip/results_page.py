"""The page `docs/results.md`, from the results that `scripts/results.sh` has made.

    python -m promptclip.results_page methods
    python -m promptclip.results_page page OUTPUT

The first prints the methods to run, the second the page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from promptclip import plugins, results, table
from promptclip.config import configs_dir
from promptclip.errors import UserError
from promptclip.tree import find

HEAD = """# Results on the built-in benchmarks

Written by `bash scripts/results.sh`, which goes on where it was stopped; not edited by hand. Every
method has its `tiny.yaml` and the small CLIP that ships with the package (`docs/tiny-emoji.md`):
good for comparing methods with each other here, and no statement about larger models. One test
picture of `emoji` is half a point over all classes and a whole one over half of them; look at the
spread before believing an order. What is not in a table has not been run yet.
"""
TUNED = """What was chosen by looking at which pictures, from the headers of the files. "Not stated"
means that nobody has written it down, not that nothing was tuned.
"""


def methods() -> list[str]:
    """Short names of all methods, zero-shot CLIP first."""
    ours = plugins.methods()
    stems = {stem: name for stem, name in plugins.load_plugins().items() if name in ours}
    return sorted(stems, key=lambda stem: (plugins.trains(stems[stem]), stem))


def page(output: Path) -> str:
    """The page in Markdown.

    Args:
        output: holds `base2new/` and `fewshot/`.

    Raises:
        UserError: if there are no results.
    """
    parts = [HEAD]
    for title, folder in {"Base to new": "base2new", "Few-shot": "fewshot"}.items():
        parts.append(f"## {title}\n\n{table.render(table.build(output / folder), 'md')}")
    files = sorted(output.absolute().rglob("seed*/result.json"))
    places = {place for file in files if (place := find(file.parent))}
    finished = [result for file in files if (result := results.read(file.parent))]
    parts.append("## Where and when\n\n" + "".join(f"- {fact}\n" for fact in facts(finished)))
    lines = (
        f"- {method} (`{cfg}`): {tuned(configs_dir() / 'trainers' / method / f'{cfg}.yaml')}\n"
        for method, cfg in sorted({(place.method, place.cfg) for place in places})
    )
    parts.append(f"## What was tuned\n\n{TUNED}\n{''.join(lines)}")
    return "\n".join(parts)


def tuned(file: Path) -> str:
    """What the header of a method's yaml says after "# Tuned:", or "not stated".

    The text ends before the next line that begins with a word and a colon, and with the header.
    """
    header = re.match(r"(#.*\n)*", file.read_text(encoding="utf-8") if file.is_file() else "")
    lines = [line.lstrip("#").strip() for line in (header[0] if header else "").splitlines()]
    text = re.search(r"(?m)^Tuned:(.*(?:\n(?!$|[A-Z][\w ]*:).+)*)", "\n".join(lines))
    return " ".join(text[1].split()) if text and text[1].strip() else "not stated"


def facts(finished: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the runs have in common; where they have not, all of it."""
    dates = sorted(result["date"] for result in finished)
    hours = sum(sum(result["seconds"].values()) for result in finished) / 3600
    yield f"{len(finished)} finished runs, {dates[0]} to {dates[-1]}, {hours:.1f} hours together"
    yield f"commit: {_distinct(_commit(result['git']) for result in finished)}"
    yield f"versions: {_distinct(_listed(result['versions']) for result in finished)}"
    machines = ({k: v for k, v in r["hardware"].items() if k != "system"} for r in finished)
    yield f"machine: {_distinct(map(_listed, machines))}"
    yield "seconds are of the clock on the wall, and other work on the machine shows in them"


def _distinct(texts: Iterable[str]) -> str:
    return "; or ".join(dict.fromkeys(texts))


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)


def _commit(git: Mapping[str, Any] | None) -> str:
    if git is None:
        return "unknown"
    return f"{git['commit'][:10]}{' with changes' if git['dirty'] else ''}"


def main(argv: Sequence[str]) -> int:
    """See the head of this module."""
    try:
        if argv[:1] == ["page"]:
            sys.stdout.write(page(Path(argv[1])))
        else:
            sys.stdout.write("\n".join(methods()) + "\n")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
