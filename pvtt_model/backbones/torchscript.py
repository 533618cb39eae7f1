"""Networks published as TorchScript. Such a file holds code, so it is loaded only where the spec names its SHA-256 and the file has it."""

from __future__ import annotations

from pathlib import Path

import torch

from pvtt_model.artifacts import sha256_of_file


def load_torchscript(folder: Path, sha256: str | None) -> torch.jit.ScriptModule:
    """The one .pt of `folder` (or the file itself), frozen, on the CPU. No pickle of ours runs, but the network's own code does.

    Raises ValueError without a hash or with a wrong one, FileNotFoundError where the folder has not one .pt.
    """
    found = [folder] if folder.is_file() else sorted(folder.glob("*.pt"))
    if len(found) != 1:
        raise FileNotFoundError(f"{folder} holds {len(found)} .pt files; one TorchScript file is wanted. Check `weights`.")
    if sha256 is None:
        raise ValueError(f"{found[0]} is TorchScript, which holds code, and the spec names no hash. Set `sha256` to that of the file you trust.")
    got = sha256_of_file(found[0])
    if got != sha256.lower():
        raise ValueError(f"{found[0]} has SHA-256 {got}; the spec says {sha256}. Fetch the file again, or correct `sha256`.")
    model = torch.jit.load(str(found[0]), map_location="cpu").eval()
    for parameter in model.parameters():  # a script module has no requires_grad_ of its own
        parameter.requires_grad_(False)
    return model
