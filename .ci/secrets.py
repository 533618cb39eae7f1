"""Look for secrets in what git tracks; exit status 1 where one is found. Run by `make check`.

python .ci/secrets.py [FILE ...]      without files: all that git tracks

A line may say why its string is none: `not-a-secret` in it, with the reason beside.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RULES = {
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----",
    "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})",
    "a token of GitLab": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{30,}",
    "a key of Prefect": r"\bpn[ub]_[A-Za-z0-9]{30,}",
    "a token of Slack": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/T[A-Za-z0-9/]{20,}",
    "a key of an API": r"\bsk-(?:[a-z]+-)*[A-Za-z0-9]{32,}",
    "a key of Google": r"\bAIza[A-Za-z0-9_-]{35}\b",
    "a token of PyPI or npm": r"\bpypi-[A-Za-z0-9_-]{50,}|\bnpm_[A-Za-z0-9]{36}\b",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"'{}$<>]+:[^\s/:@\"'{}$<>]{3,}@",
    "a secret written down": (
        r"(?i)\b[a-z0-9_.-]*(?:secret|passw(?:or)?d|api_?key|auth_?token|access_?key)[a-z0-9_]*[\"']?\s*[:=]\s*[\"']?"
        r"(?=[A-Za-z0-9+/_-]*[0-9])(?=[A-Za-z0-9+/_-]*[A-Za-z])[A-Za-z0-9+/_-]{20,}={0,2}(?=[\"'\s]|$)"
    ),
}
FOUND_BY = {name: re.compile(pattern) for name, pattern in RULES.items()}
BINARY = {".png", ".jpg", ".mp4", ".safetensors", ".parquet", ".npz", ".npy", ".zip", ".gz", ".ico", ".pdf"}
LONGEST = 5000  # characters of a line


def secrets_in(text: str) -> Iterator[tuple[int, str]]:
    """(line, what) for every line that looks like it holds a secret. What is found is never printed."""
    for number, line in enumerate(text.splitlines(), 1):
        if "not-a-secret" not in line:
            yield from ((number, name) for name, pattern in FOUND_BY.items() if pattern.search(line[:LONGEST]))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name]


def main(files: list[Path]) -> int:
    found = 0
    for path in files:
        if path.suffix in BINARY or not path.is_file():
            continue
        for number, name in secrets_in(path.read_text(errors="replace")):
            print(f"{path}:{number}: looks like {name}. Take it out, and make it void where it was published.")
            found += 1
    print(f"{len(files)} files looked at for secrets: {f'{found} found' if found else 'none'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]] or tracked()))
