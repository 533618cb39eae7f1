"""Versions of what the run stands on, against those it was tested with. No torch is loaded: the installed packages' own records are read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from pvtt_model.preflight.check import Check

Version = tuple[int, ...]

#: From (incl.) and below (excl.), as in pyproject.toml: a test holds the two together.
KNOWN_GOOD: dict[str, tuple[str | None, str | None]] = {
    "torch": ("2.15", "2.16"),
    "torchvision": ("0.29", "0.30"),
    "diffusers": ("0.42", "0.43"),
    "peft": ("0.21", "0.22"),
    "transformers": ("5.23", "6"),
    "deepspeed": ("0.19", "0.20"),
    "ray": ("2.60", "2.61"),
    "prefect": ("3.8.8", "3.9"),
    "fastapi": (None, "0.151"),
    "safetensors": ("0.6", None),
    "timm": ("1.0.31", None),
    "open-clip-torch": ("3.3", "4"),
}
WHY = {"fastapi": "with it Prefect's server does not start", "deepspeed": "the engine reads parts of it that are no public interface"}
Asked = Callable[[str], str]


def software_checks(installed: Asked = version, python: Version = sys.version_info[:2]) -> list[Check]:
    """One line of all versions that are in range, and a line for each that is not; decord and decord2 apart. installed(name): its version, or
    PackageNotFoundError."""
    good, found = [], []
    if not (3, 11) <= python < (3, 13):
        found.append(Check("python", "fail", "Python 3.11 or 3.12", ".".join(map(str, python)), "Make the environment anew with one of them."))
    for name, (least, below) in KNOWN_GOOD.items():
        wanted = f"{name} " + " and ".join([f"{least} or newer"] * (least is not None) + [f"below {below}"] * (below is not None))
        cure = "Install what requirements/dev.txt pins: make install."
        try:
            has = installed(name)
        except PackageNotFoundError:
            found.append(Check("versions", "fail", wanted, "not installed", cure))
            continue
        if in_range(name, installed):
            good.append(f"{name} {has}")
        else:
            why = f" ({WHY[name]})" if name in WHY else ""
            found.append(Check("versions", "fail" if name == "fastapi" else "warn", wanted + why, has, cure))
    if good:
        found.insert(0, Check("versions", "ok", "the known good releases", ", ".join(good)))
    return [*found, _one_decord(installed)]


def in_range(name: str, installed: Asked = version) -> bool:
    """Whether the installed version of a package is among the known good ones."""
    least, below = KNOWN_GOOD[name]
    try:
        has = _parsed(installed(name))
    except PackageNotFoundError:
        return False
    return not ((least and has < _parsed(least)) or (below and has >= _parsed(below)))


def versions_known() -> bool:
    """Whether DeepSpeed and torch are those that ZeRO-3 was tested with."""
    return in_range("deepspeed") and in_range("torch")


def _one_decord(installed: Asked) -> Check:
    has = []
    for name in ("decord", "decord2"):
        try:
            has.append(f"{name} {installed(name)}")
        except PackageNotFoundError:
            continue
    what = "decord, and not decord2 beside it: both import as decord"
    cure = "" if len(has) == 1 and has[0].startswith("decord ") else "Uninstall both, then install decord: whichever came last has overwritten files."
    return Check("decord", "fail" if cure else "ok", what, " and ".join(has) or "neither", cure)


def _parsed(text: str) -> Version:
    """'2.15.0+cu128' as (2, 15, 0); what follows the first part that is no number is left out."""
    numbers = []
    for part in text.partition("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
