"""Tables for papers: LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from promptclip.table.grid import Entry, grid
from promptclip.table.model import Row, Table
from promptclip.table.ranking import RULE, marks

_HEAD = r"% \usepackage{booktabs} in the preamble. What a letter says stands below its table."
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def latex(table: Table) -> str:
    """One floating table for each group of rows; the notes on all are comments at the end."""
    captions = f"{table.long_caption} {RULE}"
    tables = [_table(title, rows, captions) for title, rows in table.groups]
    notes = [f"% {note}" for note in table.notes]
    return "\n\n".join([_HEAD, *tables, *(["\n".join(notes)] if notes else [])]) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _table(title: str, rows: Sequence[Row], caption: str) -> str:
    headings, lines = grid(rows, marks(rows))
    letters: dict[str, str] = {}
    body = [" & ".join(_cell(entry, letters) for entry in line) + r" \\" for line in lines]
    footnotes = [f"$^{{{letter}}}$ {escaped(note)}" for note, letter in letters.items()]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(title)}. {escaped(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
            r"\toprule",
            " & ".join(map(escaped, headings)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *([r"\par\footnotesize " + "; ".join(footnotes)] if footnotes else []),
            r"\end{table}",
        ]
    )


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
