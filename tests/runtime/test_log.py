"""What is printed and what is in log.txt."""

import logging
import re
import sys

import pytest
from dassl.utils import setup_logger

EPOCH_LINE = re.compile(
    r"epoch \[1/1\] batch \[\d/4\] time \d+\.\d{3} \(\d+\.\d{3}\) data \d+\.\d{3} \(\d+\.\d{3}\) "
    r"loss \d+\.\d{4} \(\d+\.\d{4}\) acc \d+\.\d{4} \(\d+\.\d{4}\) lr \d\.\d{4}e-\d\d "
    r"eta \d:\d\d:\d\d"
)


@pytest.fixture
def log_file(tmp_path):
    """OUTPUT_DIR/log.txt, and no handler left behind."""
    handlers = list(logging.root.handlers)
    setup_logger(str(tmp_path / "out"))
    yield tmp_path / "out" / "log.txt"
    for handler in [handler for handler in logging.root.handlers if handler not in handlers]:
        logging.root.removeHandler(handler)
        handler.close()


def parse(text, keyword="accuracy", end_signal="Finish training"):
    """Read a log as CoOp's parse_test_res.py does: the last match after the end signal."""
    regex = re.compile(rf"\* {keyword}: ([\.\deE+-]+)%")
    finished, found = False, None
    for line in text.splitlines():
        finished = finished or line.strip() == end_signal
        match = regex.search(line)
        if match and finished:
            found = float(match.group(1))
    return found


@pytest.mark.parametrize("keyword", ["accuracy", "macro_f1"])
def test_lines_of_a_run(make_trainer, log_file, capsys, keyword):
    trainer = make_trainer(OPTIM__MAX_EPOCH=1)
    trainer.train()
    text = log_file.read_text()
    assert capsys.readouterr().out == text
    lines = text.splitlines()
    assert sum(bool(EPOCH_LINE.fullmatch(line)) for line in lines) == 4
    saved = f"Checkpoint saved to {trainer.output_dir}/linear/model.pth.tar-1"
    tail = [
        *(saved, "Finish training", "Deploy the last-epoch model", "Evaluate on the *test* set"),
        *("=> result", "* total: 12"),
    ]
    start = lines.index(saved)
    assert lines[start : start + len(tail)] == tail
    assert re.fullmatch(r"Elapsed: 0:00:0\d", lines[-1])
    value = trainer.evaluator.evaluate()[keyword]
    assert parse(text, keyword) == pytest.approx(value, abs=0.05)
    assert parse(text, keyword, "=> result") == parse(text, keyword)


def test_print_frequency(make_trainer, capsys):
    make_trainer(OPTIM__MAX_EPOCH=1, TRAIN__PRINT_FREQ=2).train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split()[3] for line in lines] == ["[2/4]", "[4/4]"]


def test_standard_output_is_left_alone(log_file):
    before = sys.stdout
    setup_logger(str(log_file.parent))
    assert sys.stdout is before
    assert not before.closed


def test_lines_are_appended_and_flushed(log_file):
    log_file.write_text("earlier\n")
    setup_logger(str(log_file.parent))
    logging.getLogger("dassl.test").info("later")
    assert log_file.read_text() == "earlier\nlater\n"
    assert [file.name for file in log_file.parent.iterdir()] == ["log.txt"]


def test_one_log_file_at_a_time(log_file, tmp_path):
    setup_logger(str(tmp_path / "second.txt"))
    logging.getLogger("dassl.test").info("line")
    assert (tmp_path / "second.txt").read_text() == "line\n"
    assert log_file.read_text() == ""


def test_what_others_log_is_in_the_file(log_file):
    other = logging.getLogger("somebody.else")
    other.warning("from elsewhere")
    assert log_file.read_text() == "from elsewhere\n"


def test_no_output_folder_changes_nothing():
    handlers = list(logging.root.handlers)
    setup_logger(None)
    setup_logger("")
    assert logging.root.handlers == handlers
