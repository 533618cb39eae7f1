"""The scan of `make check`: what it finds, what it lets pass, and that the repository is clean. Planted strings are put together here."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import REPOSITORY

SCRIPT = REPOSITORY / ".ci" / "secrets.py"
_spec = importlib.util.spec_from_file_location("secret_scan", SCRIPT)
assert _spec is not None and _spec.loader is not None
scan = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(scan)

LETTERS = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zAbCdEfGhIjKlMnOp"
PLANTED = {
    "an AWS access key": "key = 'AKIA" + "ABCDEFGH12345678'",
    "a private key": "-----BEGIN RSA" + " PRIVATE KEY-----",
    "a token of GitHub": "ghp_" + LETTERS[:36],
    "a token of GitLab": "glpat-" + LETTERS[:20],
    "a token of Hugging Face": "HF_TOKEN: hf_" + LETTERS[:34],
    "a key of Prefect": "pnu_" + LETTERS[:36],
    "a token of Slack": "https://hooks.slack.com/services/" + "T" + LETTERS[:30],
    "a key of an API": "sk-" + "proj-" + LETTERS[:40],
    "a key of Google": "AIza" + LETTERS[:35],
    "a token of PyPI or npm": "npm_" + LETTERS[:36],
    "a JSON web token": "eyJ" + LETTERS[:20] + ".eyJ" + LETTERS[:20] + "." + LETTERS[:20],
    "a password in an address": "postgresql://prefect:" + "hunter22@db/prefect",
    "a secret written down": "AWS_SECRET" + "_ACCESS_KEY=" + LETTERS[:40],
}


def test_every_rule_finds_its_own() -> None:
    assert set(PLANTED) == set(scan.RULES)
    for name, text in PLANTED.items():
        assert (2, name) in list(scan.secrets_in(f"first line\n{text}\n")), name


@pytest.mark.parametrize(
    "line",
    [
        "    --hash=sha256:" + "0123456789abcdef" * 4,
        "AWS_SECRET_ACCESS_KEY: ${S3_SECRET_KEY:?put it into infra/compose/.env}",
        "POSTGRES_PASSWORD=",
        "postgresql+asyncpg://prefect:${POSTGRES_PASSWORD}@postgres:5432/prefect",
        'f"postgresql://{user}:{password}@{host}/x"',
        "- secretRef: { name: pvtt-store }",
        '"AWS_SECRET_ACCESS_KEY": "SKSKSKSK"',
        "commit 913807c0123456789abcdef0123456789abcdef",
        PLANTED["an AWS access key"] + "  # not-a-secret: of AWS's own documentation",
    ],
)
def test_what_is_none_passes(line: str) -> None:
    assert not list(scan.secrets_in(line))


def test_a_find_is_told_without_the_secret_and_the_repository_has_none(tmp_path: Path) -> None:
    (tmp_path / "x.env").write_text(PLANTED["a secret written down"])
    found = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / "x.env")], capture_output=True, text=True)
    assert found.returncode == 1 and "x.env:1: looks like a secret written down" in found.stdout and LETTERS[:10] not in found.stdout
    clean = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert clean.returncode == 0, clean.stdout
