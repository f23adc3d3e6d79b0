"""Flags and yaml files of `promptclip grid`: what they mean, and what is refused."""

from __future__ import annotations

import pytest

from promptclip import cli
from promptclip.commands import grid


@pytest.fixture
def asked(monkeypatch):
    """Gives what a command would start: the spec, all values, the seats."""

    def asked(*command):
        found = []
        with monkeypatch.context() as patch:
            patch.setattr(grid, "_start", lambda *args: found.append(args) or 0)
            assert cli.main(["grid", *map(str, command)]) == 0
        return found[0]

    return asked


def test_a_yaml_file_may_have_numbers_for_names_and_keys_without_a_value(asked, tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text("{methods: coop, datasets: emoji, name: 2024, output: 7, root: , workers: 3}")
    spec, values, seats = asked(file)
    assert (values["name"], values["output"], spec.root, len(seats)) == ("2024", "7", "", 3)
    _, values, seats = asked(file, "--workers", 1, "--name", "mine")
    assert (values["name"], len(seats)) == ("mine", 1)


def test_a_path_with_spaces_is_one_data_set(asked, tmp_path):
    pets = tmp_path / "my pets"
    pets.mkdir()
    file = tmp_path / "grid.yaml"
    file.write_text(f"methods: coop\nprotocol: xd\ndatasets: emoji, dtd\ntargets: {pets}\n")
    spec, *_ = asked(file)
    assert spec.datasets == ("emoji", "dtd")
    assert spec.targets == (str(pets),)
    assert asked("coop", "--datasets", pets)[0].datasets == (str(pets),)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("work DIR --launcher slurm", "grid work takes no --launcher"),
        ("status DIR --datasets emoji", "grid status takes no --datasets"),
        ("status DIR --dry-run", "grid status takes no --dry-run"),
        ("work DIR --watch", "grid work takes no --watch"),
        ("coop --datasets emoji --watch", "grid METHODS takes no --watch"),
        ("status DIR --per-gpu 2", "grid status takes no --per-gpu"),
    ],
)
def test_flags_without_effect_are_refused(command, message, capsys):
    assert cli.main(["grid", *command.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("workers: [1, 2]", "workers must be a whole number; got [1, 2]"),
        ("per_gpu: 1-3", "per_gpu must be a whole number; got '1-3'"),
        ("root: [a]", "root must be text, got ['a']"),
        ("shots: few", "shots must be whole, such as 1,2 or 1-3; got 'few'"),
    ],
)
def test_values_of_another_kind_are_refused(content, message, tmp_path, capsys):
    file = tmp_path / "grid.yaml"
    file.write_text(f"methods: coop\ndatasets: emoji\n{content}\n")
    assert cli.main(["grid", str(file)]) == 2
    assert message in capsys.readouterr().err
