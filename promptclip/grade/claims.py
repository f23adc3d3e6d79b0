"""What an entry claims, once it is understood: a run, its hashes and its accuracy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from promptclip import plugins
from promptclip.errors import UserError
from promptclip.tree import HALVES, PROTOCOLS, TARGETS, Place

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
_FILES = (".yaml", ".yml", ".csv", ".py", ".json")  # what would be the path of something
_HASH = re.compile(r"[0-9a-f]{8,64}")
_ACCURACY = re.compile(r"[0-9]{1,10}(\.[0-9]{1,30})?")
_MAX_SEED = 2**32 - 1
_EXACT = Decimal("1e-9")  # what two writings of one number may differ by


@dataclass(frozen=True)
class Claim:
    """A claimed result.

    Attributes:
        place: of the run in an output tree; its `cfg` is "" where the data set's own is meant.
        split_hash: of the few-shot sample, or its first digits.
        config_hash: of the configuration, or its first digits.
        accuracy: in percent, with as many digits as were given.
    """

    place: Place
    split_hash: str
    config_hash: str
    accuracy: Decimal

    @property
    def rounding(self) -> Decimal:
        """By how much the last digit may be off."""
        exponent = self.accuracy.as_tuple().exponent
        return Decimal(5).scaleb(int(exponent) - 1) + _EXACT

    def agrees(self, other: Claim) -> bool:
        """Whether another claim of the same run says the same, however many digits it gives."""
        hashes = (
            (self.split_hash, other.split_hash),
            (self.config_hash, other.config_hash),
        )
        near = abs(self.accuracy - other.accuracy) <= self.rounding + other.rounding
        return near and all(a.startswith(b) or b.startswith(a) for a, b in hashes)


def parse(values: Mapping[str, str]) -> Claim:
    """Understand the values of an entry.

    Raises:
        UserError: for the first that says nothing, or something that cannot be.
    """
    place = place_of(values)
    split, config = (_hash(key, values[key]) for key in ("split_hash", "config_hash"))
    return Claim(place, split, config, _accuracy(values["accuracy"]))


def place_of(values: Mapping[str, str]) -> Place:
    """The run that an entry is about; its `cfg` is "" where none is named.

    Raises:
        UserError: as of `parse`.
    """
    protocol = _one_of("protocol", values["protocol"], PROTOCOLS)
    return Place(
        protocol=protocol,
        dataset=_name("dataset", values["dataset"]),
        shots=_whole("shots", values["shots"], 1, 10**6),
        method=_method(values["method"]),
        cfg=_name("cfg", values["cfg"]) if values["cfg"] else "",
        seed=_whole("seed", values["seed"], 0, _MAX_SEED),
        target=_target(protocol, values["target"]),
    )


def impossible(claim: Claim, num_test: int) -> str:
    """Why no test of so many pictures has this accuracy; "" if one could.

    A rounded number stands for all that it is the rounding of.
    """
    step = Decimal(100) / num_test
    hits = (claim.accuracy / step).to_integral_value()
    if abs(hits * step - claim.accuracy) <= claim.rounding:
        return ""
    below = int(claim.accuracy / step)
    return (
        f"accuracy {claim.accuracy} is impossible: of {num_test} test pictures, {below} are "
        f"{below * step:.2f} % and {below + 1} are {(below + 1) * step:.2f} %"
    )


def _said(key: str, text: str) -> str:
    if not text:
        raise UserError(f"no {key} is given")
    return text


def _one_of(key: str, text: str, known: Mapping[str, object]) -> str:
    if _said(key, text) not in known:
        raise UserError(f"{key} must be one of {', '.join(known)}; got {text!r:.100}")
    return text


def _name(key: str, text: str) -> str:
    """A name of something that this installation has, and never the path of a file."""
    if not _NAME.fullmatch(_said(key, text)) or ".." in text or text.lower().endswith(_FILES):
        raise UserError(
            f"{key} must be a name that promptclip knows, and no file of the submission is read; "
            f"got {text!r:.100}"
        )
    return text


def _method(text: str) -> str:
    name = plugins.trainer_name(_name("method", text))
    if name not in plugins.methods():
        raise UserError(f"{name} is no method of promptclip's")
    return name


def _target(protocol: str, text: str) -> str:
    if protocol in TARGETS:
        return _name("target", text)
    readers: dict[str, Callable[[], str]] = {
        "base2new": lambda: _one_of("target", text, HALVES),
        "imbalance": lambda: _ratio(text),
    }
    if protocol in readers:
        return readers[protocol]()
    if text not in ("", "all"):
        raise UserError(f"{protocol} has no target; leave the cell empty, got {text!r:.100}")
    return ""


def _ratio(text: str) -> str:
    number = _said("target", text).removeprefix("ratio_")
    if not re.fullmatch(r"0?\.[0-9]{1,6}", number) or float(number) == 0:
        raise UserError(f"target must be a ratio between 0 and 1, such as 0.25; got {text!r:.100}")
    return f"ratio_{float(number)}"


def _whole(key: str, text: str, least: int, most: int) -> int:
    if not re.fullmatch("[0-9]{1,10}", _said(key, text)) or not least <= int(text) <= most:
        raise UserError(f"{key} must be a whole number from {least} to {most}; got {text!r:.100}")
    return int(text)


def _hash(key: str, text: str) -> str:
    if not _HASH.fullmatch(_said(key, text).lower()):
        raise UserError(
            f"{key} must be at least the first 8 hexadecimal digits of the one in result.json; "
            f"got {text!r:.100}"
        )
    return text.lower()


def _accuracy(text: str) -> Decimal:
    if not _ACCURACY.fullmatch(_said("accuracy", text)):
        hint = {",": ", with a decimal point", "%": ", without the sign"}
        hints = "".join(words for sign, words in hint.items() if sign in text)
        raise UserError(f"accuracy must be a number in percent{hints}; got {text!r:.100}")
    if (accuracy := Decimal(text)) > 100:
        raise UserError(f"accuracy {text:.100} is above 100 %")
    return accuracy
