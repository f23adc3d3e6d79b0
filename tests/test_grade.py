"""Claimed results: read, understood, compared and told, on the miniature benchmark."""

from __future__ import annotations

import csv
import os
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from promptclip import results
from promptclip.cli import main
from promptclip.errors import UserError
from promptclip.grade import judge as judging
from promptclip.grade import sheet, submission
from promptclip.grade.claims import Claim, impossible, parse
from promptclip.grade.judge import FAIL, NOT_RERUN, OPEN, PASS
from promptclip.grade.submission import COLUMNS, Entry
from promptclip.protocols import base2new, fewshot
from promptclip.tree import Place

SHORT = ("--set", "OPTIM.MAX_EPOCH", "1")
VALUES = {
    "student": "ann",
    "method": "coop",
    "cfg": "tiny",
    "dataset": "emoji",
    "protocol": "base2new",
    "target": "new",
    "shots": "16",
    "seed": "1",
    "split_hash": "0123456789abcdef",
    "config_hash": "0123456789ABCDEF",
    "accuracy": "31.7",
}


@pytest.fixture(scope="module")
def output(mini, tmp_path_factory):
    """An honest student's runs."""
    output = tmp_path_factory.mktemp("honest") / "output"
    settings = {"root": str(mini.parent), "output": str(output), "quiet": True}
    settings["overrides"] = ["OPTIM.MAX_EPOCH", 1]
    fewshot(["zsclip", "coop"], str(mini), shots=(1, 2), seeds=(1,), **settings)
    base2new(["coop"], str(mini), shots=2, seeds=(1,), **settings)
    return output


@pytest.fixture
def grade(mini, tmp_path, monkeypatch):
    """Grades a submission; gives the exit status and the rows of the sheet."""
    monkeypatch.setenv("TQDM_DISABLE", "1")

    def grade(folder, *flags):
        work = tmp_path / "grading"
        data = ("--root", str(mini.parent), "--data", str(mini), *SHORT)
        status = main(["grade", str(folder), "--work", str(work), *data, *flags])
        with (work / "sheet.csv").open(newline="", encoding="utf-8") as file:
            return status, list(csv.DictReader(file))

    return grade


def values_of(output):
    """What a tree claims, as rows of a table."""
    return [dict(entry.values) for entry in submission.read(output)]


def write(file, rows, columns=COLUMNS):
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_an_honest_tree_and_its_table_pass_and_nothing_is_done_twice(output, grade, tmp_path):
    shutil.copytree(output, tmp_path / "class/ann/output")
    write(tmp_path / "class/ben/claims.csv", values_of(output))
    status, rows = grade(tmp_path / "class")
    assert status == 0
    assert len(rows) == 12
    assert {row["verdict"] for row in rows} == {PASS}
    assert {row["student"] for row in rows} == {"ann", "ben"}
    assert all(row["difference"] == "0.000000" for row in rows)
    done = {file: file.stat().st_mtime_ns for file in tmp_path.glob("grading/**/result.json")}
    assert len(done) == 6
    assert grade(tmp_path / "class") == (0, rows)
    assert done == {f: f.stat().st_mtime_ns for f in tmp_path.glob("grading/**/result.json")}


def test_a_sample_is_of_each_student_and_does_not_depend_on_others(output, grade, tmp_path):
    for name in ("ann", "ben", "cleo"):
        write(tmp_path / f"class/{name}/claims.csv", values_of(output))

    def chosen(rows):
        return {(row["student"], row["row"]) for row in rows if row["verdict"] == PASS}

    status, rows = grade(tmp_path / "class", "--sample", "2", "--seed", "5")
    assert status == 0
    assert {row["verdict"] for row in rows} == {PASS, NOT_RERUN}
    first = chosen(rows)
    assert sorted(student for student, _ in first) == ["ann", "ann", "ben", "ben", "cleo", "cleo"]
    shutil.rmtree(tmp_path / "class/ann")
    _, rows = grade(tmp_path / "class", "--sample", "2", "--seed", "5")
    assert chosen(rows) == {pair for pair in first if pair[0] != "ann"}
    others = {
        frozenset(chosen(grade(tmp_path / "class", "--sample", "2", "--seed", str(seed))[1]))
        for seed in range(4)
    }
    assert len(others) > 1
    _, rows = grade(tmp_path / "class", "--sample", "0")
    assert {row["verdict"] for row in rows} == {NOT_RERUN}


def test_accuracies_are_compared_within_the_tolerance(output, grade, tmp_path):
    # Twenty test pictures, so one is five points.
    row = next(r for r in values_of(output) if r["method"] == "ZeroshotCLIP")
    true = Decimal(row["accuracy"])
    other = true + 5 if true <= 95 else true - 5
    write(tmp_path / "ann.csv", [row | {"accuracy": str(other)}])
    status, (found,) = grade(tmp_path / "ann.csv", "--tolerance", "4.9")
    assert (status, found["verdict"]) == (1, FAIL)
    assert found["why"] == (
        f"claimed {other}, here {true:.2f}: {other - true:+.2f} points, and 4.9 are tolerated"
    )
    assert grade(tmp_path / "ann.csv", "--tolerance", "5")[0] == 0


def test_other_settings_and_other_pictures_are_named(output, grade, tmp_path):
    one, two = [r for r in values_of(output) if r["method"] == "ZeroshotCLIP"]
    swapped = [
        one | {"split_hash": two["split_hash"]},
        two | {"config_hash": one["config_hash"]},
    ]
    write(tmp_path / "ann.csv", swapped)
    status, (split, config) = grade(tmp_path / "ann.csv")
    assert status == 1
    assert split["why"].startswith(f"split hash {two['split_hash'][:16]} is not ")
    assert config["why"].startswith(f"config hash {one['config_hash']} is not ")
    assert not list((tmp_path / "grading").glob("**/result.json"))
    status, rows = grade(tmp_path / "ann.csv", "--set", "OPTIM.LR", "0.5")
    assert all("config hash" in row["why"] for row in rows)


def test_hashes_may_be_cut_and_accuracies_rounded(output, grade, tmp_path):
    rows = [
        row
        | {key: row[key][:8].upper() for key in ("split_hash", "config_hash")}
        | {"accuracy": f"{float(row['accuracy']):.1f}"}
        for row in values_of(output)
    ]
    write(tmp_path / "ann.csv", rows)
    assert grade(tmp_path / "ann.csv", "--tolerance", "0")[0] == 0


def test_a_run_counts_once(output, grade, tmp_path):
    one, two, three, *_ = values_of(output)
    for row in (one, two, three):
        row["student"] = "ann"
    other = "0" if float(two["accuracy"]) > 50 else "100"
    rows = [one, one, two, two | {"accuracy": other}, three | {"student": "ben"}, three]
    write(tmp_path / "class.csv", rows)
    _, found = grade(tmp_path / "class.csv", "--sample", "0")
    assert [row["verdict"] for row in found] == [NOT_RERUN, FAIL, FAIL, FAIL, NOT_RERUN, NOT_RERUN]
    assert found[1]["why"] == "the same run as class.csv, row 2"
    assert found[2]["why"] == "claimed otherwise in class.csv, row 5"
    assert found[3]["why"] == "the same run as class.csv, row 4"


def test_a_result_and_a_row_that_says_the_same_may_both_be_handed_in(output, grade, tmp_path):
    shutil.copytree(output, tmp_path / "class/ann/output")
    rows = [
        row
        | {key: row[key][:8] for key in ("split_hash", "config_hash")}
        | {"accuracy": f"{float(row['accuracy']):.2f}"}
        for row in values_of(output)
    ]
    write(tmp_path / "class/ann/claims.csv", rows)
    status, found = grade(tmp_path / "class", "--sample", "0")
    assert (status, len(found)) == (0, 12)
    rows[0]["accuracy"] = "0" if float(rows[0]["accuracy"]) > 50 else "100"
    write(tmp_path / "class/ann/claims.csv", [rows[0], rows[1], rows[1]])
    status, found = grade(tmp_path / "class", "--sample", "0")
    failed = [row for row in found if row["verdict"] == FAIL]
    assert [(row["row"], row["why"].split(" ")[0]) for row in failed] == [
        ("2", "claimed"), ("4", "the"), ("", "the")
    ]  # fmt: skip
    assert failed[2]["why"] == "the same run as ann/claims.csv, row 2"


def test_what_cannot_be_checked_here_is_not_the_students_fault(grade, tmp_path):
    write(tmp_path / "ann.csv", [VALUES | {"dataset": "dtd", "cfg": "", "method": "zsclip"}])
    status, (found,) = grade(tmp_path / "ann.csv")
    assert (status, found["verdict"]) == (1, OPEN)
    assert found["why"].startswith("cannot be checked here: DescribableTextures: ")


def test_a_run_that_fails_here_is_undecided(output, grade, tmp_path, monkeypatch):
    def fails(run):
        raise FloatingPointError("Loss is infinite or NaN!")

    monkeypatch.setattr(judging, "rerun", fails)
    write(tmp_path / "ann.csv", values_of(output)[:1])
    status, (found,) = grade(tmp_path / "ann.csv")
    assert (status, found["verdict"]) == (1, OPEN)
    assert found["why"] == "the run failed here: Loss is infinite or NaN!"


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("method", "copo", "unknown method 'copo'; did you mean 'CoOp'"),
        ("method", "", "no method is given"),
        ("method", "trainers/evil.py", "no file of the submission is read; got 'trainers/evil.py'"),
        ("method", "evil.py", "method must be a name"),
        ("cfg", "../evil.yaml", "cfg must be a name"),
        ("cfg", "/etc/passwd", "cfg must be a name"),
        ("cfg", "evil.yaml", "cfg must be a name"),
        ("cfg", "..", "cfg must be a name"),
        ("dataset", "C:\\pictures", "dataset must be a name"),
        ("dataset", "~", "dataset must be a name"),
        ("dataset", "a\0b", "dataset must be a name"),
        ("dataset", "x" * 101, "dataset must be a name"),
        ("protocol", "few", "protocol must be one of base2new, fewshot"),
        ("target", "", "no target is given"),
        ("target", "old", "target must be one of base, new; got 'old'"),
        ("shots", "0", "shots must be a whole number from 1"),
        ("shots", "-1", "shots must be"),
        ("shots", "4.0", "shots must be"),
        ("shots", "٤", "shots must be"),
        ("seed", "4294967296", "seed must be a whole number from 0 to 4294967295"),
        ("seed", "one", "seed must be"),
        ("split_hash", "", "no split_hash is given"),
        ("split_hash", "0123456", "split_hash must be at least the first 8"),
        ("config_hash", "g" * 16, "config_hash must be"),
        ("accuracy", "", "no accuracy is given"),
        ("accuracy", "nan", "accuracy must be a number in percent; got 'nan'"),
        ("accuracy", "inf", "accuracy must be"),
        ("accuracy", "-1", "accuracy must be"),
        ("accuracy", "1e2", "accuracy must be"),
        ("accuracy", "31,7", "with a decimal point; got '31,7'"),
        ("accuracy", "31.7%", "without the sign"),
        ("accuracy", "٣١", "accuracy must be"),
        ("accuracy", "100.01", "above 100 %"),
        ("accuracy", "9" * 5000, "accuracy must be"),
    ],
)
def test_values_that_cannot_be(key, text, message):
    with pytest.raises(UserError, match=r".*") as error:
        parse(VALUES | {key: text})
    assert message in str(error.value)
    assert len(str(error.value)) < 600


def test_targets_of_other_protocols():
    assert parse(VALUES).place == Place("base2new", "emoji", 16, "CoOp", "tiny", 1, "new")
    for given in ("0.25", "ratio_0.25", ".25"):
        found = parse(VALUES | {"protocol": "imbalance", "target": given}).place
        assert found.target == "ratio_0.25"
    for given in ("1", "0", "0.0", "1.5", "-0.5", "nan", "0.25/../x"):
        with pytest.raises(UserError, match="ratio between 0 and 1"):
            parse(VALUES | {"protocol": "imbalance", "target": given})
    few = {"protocol": "fewshot"}
    assert parse(VALUES | few | {"target": "all"}) == parse(VALUES | few | {"target": ""})
    with pytest.raises(UserError, match="fewshot has no target"):
        parse(VALUES | few)
    assert parse(VALUES | {"protocol": "dg", "target": "emoji_line"}).place.target == "emoji_line"


@pytest.mark.parametrize("tests", [1, 7, 103, 104, 2465])
def test_every_number_of_hits_is_possible_and_what_lies_between_is_not(tests):
    def says(text):
        place = Place("fewshot", "emoji", 1, "CoOp", "tiny", 1)
        return impossible(Claim(place, "", "", Decimal(text)), tests)

    for hits in {0, 1, tests // 2, tests - 1, tests}:
        exact = 100 * hits / tests
        assert not says(repr(exact))
        for digits in range(4):
            assert not says(f"{exact:.{digits}f}")
    between = f"{100 * (tests // 2 + 0.5) / tests:.6f}"
    assert says(between).startswith(f"accuracy {between} is impossible: of {tests} test pictures, ")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"PK\x03\x04\x14\x00", "is no table of claims"),
        (b"name,grade\nann,1\n", "is no table of claims: there is no column method, dataset"),
        (b"student;method;accuracy\n", "put commas between them"),
        (",".join([*COLUMNS, "accuracy"]).encode() + b"\n", "has the column accuracy twice"),
        (",".join(COLUMNS).encode() + b'\n"ann', "cannot be read as CSV from row 2 on"),
        (",".join(COLUMNS).encode() + b"\n" + b"x" * 200_000, "cannot be read as CSV from row 2"),
    ],
)
def test_tables_that_cannot_be_read(content, fault, tmp_path):
    folder = tmp_path / "class" / "ann"
    folder.mkdir(parents=True)
    (folder / "claims.csv").write_bytes(content)
    (entry,) = submission.read(tmp_path / "class")
    assert (entry.student, entry.where) == ("ann", "ann/claims.csv")
    assert entry.fault.startswith(fault) or fault in entry.fault
    with pytest.raises(UserError, match=r"claims\.csv: "):
        submission.read(folder / "claims.csv")


def test_rows_before_a_broken_one_and_rows_of_another_length(tmp_path):
    head, row = ",".join(COLUMNS), ",".join(VALUES.values())
    text = f'{head}\n{row}\n\n{row},more\n,,,\n{row[:-4]}\n{head[:9]}\n"broken'
    (tmp_path / "x.csv").write_text(text, encoding="utf-8-sig")
    found = submission.read(tmp_path)
    assert [(entry.row, entry.fault[:12]) for entry in found] == [
        (2, ""), (4, "has 12 cells"), (6, ""), (7, "has 2 cells,"), (0, "cannot be re")
    ]  # fmt: skip


def test_too_much(tmp_path, monkeypatch):
    file = write(tmp_path / "ann.csv", [VALUES] * 3)
    monkeypatch.setattr(submission, "MAX_ROWS", 3)
    assert [entry.fault for entry in submission.read(file)] == ["", "", "has more than 3 rows"]
    monkeypatch.setattr(submission, "MAX_BYTES", 20)
    assert "is too large" in submission.read(tmp_path)[0].fault


def test_whose_a_file_is(tmp_path):
    write(tmp_path / "ann/deep/claims.csv", [VALUES, VALUES | {"student": ""}])
    write(tmp_path / "ben/claims.csv", [VALUES])
    write(tmp_path / "class.csv", [VALUES | {"student": "cleo"}, VALUES | {"student": ""}])
    write(tmp_path / ".git/claims.csv", [VALUES])
    found = [(entry.student, entry.fault) for entry in submission.read(tmp_path)]
    assert found == [
        ("cleo", ""), ("class", ""), ("ann", ""), ("ann", ""),
        ("ben", "claims for 'ann' in the folder of 'ben'"),
    ]  # fmt: skip


def test_links_and_what_is_no_file(output, tmp_path):
    write(tmp_path / "secret.csv", [VALUES])
    folder = tmp_path / "class"
    (folder / "ann").mkdir(parents=True)
    (folder / "ann/claims.csv").symlink_to(tmp_path / "secret.csv")
    (folder / "ann/output").symlink_to(output)
    (folder / "ben").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.csv")
    run = "fewshot/mini/shots_1/CoOp/tiny/seed1"
    (folder / "cleo" / run).mkdir(parents=True)
    (folder / "cleo" / run / "result.json").symlink_to(output / run / "result.json")
    found = {entry.file: entry for entry in submission.read(folder)}
    assert found.pop("pipe.csv").fault == "is no file"
    assert {file: entry.student for file, entry in found.items()} == {
        "ann/claims.csv": "ann", "ann/output": "ann", "ben": "ben",
        f"cleo/{run}/result.json": "cleo",
    }  # fmt: skip
    assert {entry.fault[:9] for entry in found.values()} == {"is a link"}


def test_results_that_are_not_what_they_seem(output, tmp_path):
    folder = tmp_path / "class/ann"
    shutil.copytree(output, folder)
    shots = [folder / f"fewshot/mini/shots_{k}/CoOp/tiny/seed1/result.json" for k in (1, 2)]
    zero = [folder / f"fewshot/mini/shots_{k}/ZeroshotCLIP/tiny/seed1/result.json" for k in (1, 2)]
    shots[0].write_text(shots[0].read_text().replace('"seed": 1', '"seed": 2'))
    shutil.copy(shots[1], folder / "base2new/test_new/mini/shots_2/CoOp/tiny/seed1/result.json")
    shots[1].write_text(shots[1].read_text().replace('"schema": 1', '"schema": 99'))
    (folder / "result.json").write_bytes(zero[0].read_bytes())
    results.write({"schema": 1, "shots": 1, "method": "ZeroshotCLIP", "subsample": "all", "seed": 1,
                   "metrics": ["accuracy"], "split_hash": 7}, zero[0].parent)  # fmt: skip
    zero[1].write_text("[" * 100_000)
    found = {entry.file: entry for entry in submission.read(tmp_path / "class")}
    below = "ann/fewshot/mini/shots_{}/{}/tiny/seed1/result.json"
    faults = {
        below.format(1, "CoOp"): "its checksum does not fit",
        below.format(2, "CoOp"): "is of a newer promptclip",
        below.format(1, "ZeroshotCLIP"): "",
        below.format(2, "ZeroshotCLIP"): "is not as promptclip wrote it",
        "ann/result.json": "lies in no folder of an output tree",
        "ann/base2new/test_new/mini/shots_2/CoOp/tiny/seed1/result.json": "is of another run",
        "ann/base2new/train_base/mini/shots_2/CoOp/tiny/seed1/result.json": "",
    }
    assert found.keys() == faults.keys()
    for file, fault in faults.items():
        assert fault in found[file].fault, file
        assert bool(fault) == bool(found[file].fault), file
    with pytest.raises(UserError, match="split_hash must be"):
        parse(found[below.format(1, "ZeroshotCLIP")].values)


def hostile_lines():
    texts = ["=cmd|' /C calc'!A0", "+1+2", "-2+3", "@SUM(1)", "\t=1", "<script>alert(1)</script>",
             "a|b\nc", "![x](http://e.example/x.png)", "*b* _c_ `d`", "\u202egpj", "x" * 5000,
             "\udc80"]  # fmt: skip
    return [judging.Line(Entry(text, f"{text}.csv", 2, VALUES | {"accuracy": text}, text))
            for text in texts]  # fmt: skip


def test_nothing_of_a_submission_acts_in_a_sheet(tmp_path):
    lines = [*hostile_lines(), *hostile_lines()]
    lines[0].faults = [lines[0].entry.fault]
    found = sheet.Sheet(lines, ("a note with <b>",))
    sheet.write(found, tmp_path)
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    with (tmp_path / "sheet.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 25
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert max(map(len, cells)) <= 1002
    assert max(len(row[0]) for row in rows) <= 202
    text = (tmp_path / "sheet.md").read_text(encoding="utf-8")
    assert r"a\|b\\nc" in text
    assert "<script" not in text.replace(r"\<script", "")
    assert r"\!\[x\](http" in text
    assert r"\*b\* \_c\_ \`d\`" in text
    assert text.isascii() or not {"\u202e", "\udc80"} & set(text)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in table} == {7, 8}


def test_an_assignment_is_filled_in_and_passes(output, grade, tmp_path, capsys):
    assert main(["grade", "--new", str(tmp_path / "task")]) == 0
    assert sorted(file.name for file in (tmp_path / "task").iterdir()) == [
        "README.md",
        "claims.csv",
    ]
    given = [entry.values for entry in submission.read(tmp_path / "task/claims.csv")]
    assert len(given) == 6
    assert {row["protocol"] for row in given} == {"base2new"}
    for row in given:
        with pytest.raises(UserError, match="no split_hash is given"):
            parse(row)
    # The same for runs on the miniature benchmark, and one that was not done.
    empty = {"split_hash": "", "config_hash": "", "accuracy": ""}
    rows = [row | empty | {"student": "ann", "remark": "x, y"} for row in values_of(output)]
    rows.append(rows[0] | {"seed": "9"})
    rows[1]["cfg"] = ""
    table = write(tmp_path / "ann/claims.csv", rows, [*COLUMNS[::-1], "remark"])
    assert main(["grade", str(output), "--fill", str(table)]) == 1
    assert "row 8 stays empty" in capsys.readouterr().out
    with table.open(newline="") as file:
        assert [row["remark"] for row in csv.DictReader(file)] == ["x, y"] * 7
    status, found = grade(tmp_path / "ann/claims.csv")
    assert status == 1
    assert [row["verdict"] for row in found] == [PASS] * 6 + [FAIL]
    assert found[-1]["why"] == "no split_hash is given"


def test_unusable_input_leaves_nothing(output, tmp_path, capsys):
    def says(*argv):
        before = sorted(tmp_path.rglob("*"))
        status = main(["grade", *map(str, argv)])
        assert sorted(tmp_path.rglob("*")) == before
        assert status == 2
        return capsys.readouterr().err

    work = tmp_path / "grading"
    assert "give a submission, or --new" in says("--work", work)
    assert "no folder or CSV file" in says(tmp_path / "none", "--work", work)
    (tmp_path / "empty").mkdir()
    assert "claims nothing" in says(tmp_path / "empty", "--work", work)
    assert "lie in each other" in says(tmp_path, "--work", work)
    assert "lie in each other" in says(output, "--work", output.parent)
    (tmp_path / "empty/x").touch()
    assert "no file" in says(output, "--fill", tmp_path / "empty")
    assert "no file" in says(output, "--fill", tmp_path / "none")
    assert "is there already" in says("--new", tmp_path / "empty")
    assert "is there already" in says("--new", tmp_path / "empty/x")
    assert "cannot be written" in says("--new", tmp_path / "empty/x/y")
    assert "unknown key OPTIM.LT" in says(output, "--work", work, "--set", "OPTIM.LT", 1)
    assert "SEED cannot be set here" in says(output, "--work", work, "--set", "SEED", 1)
    assert "no folder" in says(output, "--work", work, "--data", tmp_path / "none")
    assert "cannot be written" in says(output, "--work", tmp_path / "empty/x", "--sample", 0)
    for flags in (["--sample", "-1"], ["--sample", "x"], ["--tolerance", "nan"]):
        with pytest.raises(SystemExit):
            main(["grade", str(output), *flags])


def test_paths_are_told_below_the_submission(output):
    files = {entry.file for entry in submission.read(output)}
    assert all(not Path(file).is_absolute() for file in files)
