"""Where results come from: versions, machines, configurations, splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from promptclip.config import config_difference
from promptclip.report import html
from promptclip.report.html import Markup, Part, Section, folded, listed, tag
from promptclip.report.source import Run, Source
from promptclip.results_page import facts
from promptclip.tree import of_shots

_FACTS = {"versions", "date", "git", "hardware", "seconds"}  # older results may lack some


def section(source: Source) -> Section:
    """When and by what, the pictures that were used, and every configuration."""
    title, anchor = "Environment, configurations, splits", "origin"
    whole = [run for run in source.finished if _FACTS <= run.result.keys()]
    if not whole:
        return Section(anchor, title, empty="No result in this folder says where it comes from.")
    parts: list[Part] = [
        tag("h3", "When and by what"),
        listed(facts([run.result for run in whole])),
        tag("h3", "Pictures"),
        _splits(whole),
        tag("h3", "Configurations"),
        *_configurations(source, whole),
    ]
    return Section(anchor, title, parts)


def _splits(runs: Iterable[Run]) -> Markup:
    """The split of each benchmark, and the sample of each seed."""
    rows: dict[tuple[str, ...], None] = {}
    for run in runs:
        place, result = run.place, run.result
        hashes = (result.get("split_hash"), result.get("split_file_hash"))
        sample, split = (str(value or "unknown")[:12] for value in hashes)
        name = f"{place.benchmark}, {of_shots(place.shots)}, seed {place.seed}"
        key = (name, run.result["subsample"], str(result.get("split_origin")), split, sample)
        rows[key] = None
    headings = ("benchmark", "classes", "split", "its hash", "hash of the sample")
    return folded(f"{len(rows)} samples", html.table("Splits and samples", headings, sorted(rows)))


def _configurations(source: Source, runs: Iterable[Run]) -> Iterator[Markup]:
    """Of each method: that of one run, and the keys in which its other runs differ."""
    for label, its in source.by_label(runs).items():
        first = its[0]
        lines = dict.fromkeys(
            line
            for run in its[1:]
            for line in config_difference(first.result["config"], run.result["config"])
        )
        shown = yaml.safe_dump(_plain(first.result["config"]), allow_unicode=True)
        differ = (
            [tag("p", f"Other runs differ from it in {len(lines)} ways:"), listed(lines)]
            if lines
            else []
        )
        yield folded(
            f"{label}: {first.place.path.as_posix()}",
            tag("pre", Markup("\n".join(html.text(line) for line in shown.splitlines()))),
            *differ,
        )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the options of methods that the run did not use."""
    own = config.get("TRAINER", {})
    name = str(own.get("NAME", ""))
    used = {
        key: value
        for key, value in own.items()
        if not isinstance(value, dict) or key == name.upper()
    }
    return {**config, "TRAINER": used}
