"""A run outlives the worker that started it. Its output is a pipe to the worker: once that is gone, Prefect's console handler (rich) would end
the run with SystemExit at its next log line. Here the line is dropped instead; the server gets it all the same."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from typing import Any


def outlive_the_terminal() -> None:
    """Let every console handler of this process go quiet when its reader is gone. Doing it twice does no harm."""
    loggers = [logging.root, *(one for one in logging.Logger.manager.loggerDict.values() if isinstance(one, logging.Logger))]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        console: Any = getattr(handler, "console", None)
        if hasattr(console, "on_broken_pipe"):
            console.on_broken_pipe = partial(_go_on, console)


def _go_on(console: Any) -> None:
    """As rich does, but without its SystemExit: what is printed later, by whomever, goes to /dev/null."""
    console.quiet = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
