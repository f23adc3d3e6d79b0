"""Tables for papers: LaTeX with booktabs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from promptclip.table.grid import Entry, grid
from promptclip.table.model import Row, Table
from promptclip.table.ranking import RULE, marks

_HEAD = (
    r"% \usepackage{booktabs,graphicx} in the preamble. What a letter says stands below its table."
)
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_WIDE = 10  # columns; what has more, such as tests on ten data sets, has its methods as columns
_FLOATS = 15  # LaTeX holds back some tables (52 today) before it gives up, and others are there too
# A table that is wider than the page is made smaller, one that is not stays as it is.
_FIT = r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"


def latex(table: Table) -> str:
    """One floating table for each group of rows; the notes on all are comments at the end."""
    tables = [_table(title, rows) for title, rows in table.groups]
    for number in range(_FLOATS, len(tables), _FLOATS):
        tables[number] = "\\clearpage\n" + tables[number]
    notes = [f"% {' '.join(note.split())}" for note in table.notes]
    head = [_HEAD, *_substitutes("".join(tables))]
    blocks = ["\n".join(head), *tables, *(["\n".join(notes)] if notes else [])]
    return "\n\n".join(blocks) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX prints it, on one line."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    text = "".join(_SPECIAL.get(character, character) for character in text)
    # Two hyphens would become a dash, and a minus would be a hyphen.
    return re.sub(r"(?<!\S)-(?=\d)", "$-$", re.sub(r"-(?=-)", "-{}", text))


def _substitutes(text: Iterable[str]) -> Iterator[str]:
    """What pdfLaTeX prints for characters that it does not know; without, it stops at them."""
    for character in sorted({character for character in text if not character.isascii()}):
        name = rf"u8:\detokenize{{{character}}}"
        define = rf"\expandafter\def\csname {name}\endcsname{{[U+{ord(character):04X}]}}"
        yield rf"\ifcsname {name}\endcsname\else{define}\fi"


def _table(title: str, rows: Sequence[Row]) -> str:
    headings, lines = grid(rows, marks(rows))
    letters: dict[str, str] = {}
    cells = [list(map(escaped, headings)), *([_cell(e, letters) for e in line] for line in lines)]
    if len(headings) > _WIDE:
        cells = [list(column) for column in zip(*cells, strict=True)]
    head, *body = [" & ".join(line) + r" \\" for line in cells]
    footnotes = [f"$^{{{letter}}}$ {escaped(note)}" for note, letter in letters.items()]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(f'{title}. {_caption(rows)} {RULE}')}}}",
            r"\smallskip",
            r"\sbox0{%",
            rf"\begin{{tabular}}{{l{'r' * (len(cells[0]) - 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}%",
            _FIT,
            *([r"\par\footnotesize " + "; ".join(footnotes)] if footnotes else []),
            r"\end{table}",
        ]
    )


def _caption(rows: Sequence[Row]) -> str:
    """What the numbers of these rows are, without a word on others of the same `Table`."""
    own = tuple(rows)
    averages, parts = own if rows[0].datasets else (), own if rows[0].part else ()
    return Table(own, averages=averages, parts=parts).long_caption


def _cell(entry: Entry, letters: dict[str, str]) -> str:
    """A number with the letters of its notes; a dash where there is none, but a note."""
    text = escaped(entry.text)
    if entry.mark:
        text = rf"\{'textbf' if entry.mark == 'best' else 'underline'}{{{text}}}"
    if not entry.notes:
        return text
    marked = [letters.setdefault(note, _letter(len(letters))) for note in entry.notes]
    return f"{text or '--'}$^{{{','.join(marked)}}}$"


def _letter(number: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    before, last = divmod(number, 26)
    return (_letter(before - 1) if before else "") + chr(ord("a") + last)
