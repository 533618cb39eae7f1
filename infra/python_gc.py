"""Python's garbage collector, told to look seldom while a process loads its libraries or holds a large table.

Importing torch, diffusers and peft makes millions of objects that stay; at Python's own thresholds they are gone through again and again, a fifth
of what a process pays before its work begins.
"""

from __future__ import annotations

import gc

SELDOM = (100_000, 20, 100)  # objects more than before at which garbage is looked for; Python's own: 700
_USUAL = gc.get_threshold()


def few_collections() -> None:
    """Look seldom from here on. Not for a training: tensors in cycles of objects would lie in memory for long."""
    if gc.get_threshold() != SELDOM:
        gc.set_threshold(*SELDOM)
        gc.freeze()  # what is loaded stays, and is not gone through any more


def usual_collections() -> None:
    """Python's own thresholds again, as they were at the process's start, where `few_collections` changed them; what is there by now stays."""
    if gc.get_threshold() == SELDOM:
        gc.freeze()
        gc.set_threshold(*_USUAL)
