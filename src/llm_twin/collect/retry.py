"""When a failed item is looked at again.

The first failure is mostly a passing thing, or is mended at once by the person who reads of it, so the next sync tries
again. What fails on is left alone for longer each time, up to a day: what is broken stays broken mostly, and asking a
site for a broken page every few minutes for weeks is rude. An item that changed since it failed is tried at once.

Where a host is the reason (it cannot be reached, or wants to be left alone), nothing speaks against the item itself:
then the wait ends at an hour. After `SILENT_TIMES` such failures of one host in a row its source is left for this sync,
so that a host in trouble is asked a few times and not once for each of its pages, and all others keep their turn.
"""

from __future__ import annotations

from datetime import datetime, timedelta

WAITS = (
    timedelta(0),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=8),
    timedelta(days=1),
)
"""How long an item is left alone after its first, second … failure in a row; the last holds from then on."""
HOST_WAIT = timedelta(hours=1)
"""The longest wait where the reason lies with a host."""
SILENT_TIMES = 3
"""So many items in a row that one host kept from being read make it a problem of the source."""


def next_try(tries: int, now: datetime, *, host: str = "") -> datetime:
    """When an item that failed `tries` times in a row is due again; `host` names the host that was the reason."""
    wait = WAITS[min(max(tries, 1), len(WAITS)) - 1]
    return now + (min(wait, HOST_WAIT) if host else wait)
