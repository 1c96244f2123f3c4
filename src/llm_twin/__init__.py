"""LLM Twin: finds, answers and writes in an author's own words and voice, with citations.

    from llm_twin import Twin

    with Twin.open("my-twin") as twin:
        twin.sync()
        print(twin.ask("What do I think of ORMs?").text)

Importing the package opens nothing and reads nothing; `Twin` is loaded when it is first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_twin.twin import Twin

__version__ = "0.1.0"
__all__ = ["Twin", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Twin":
        from llm_twin.twin import Twin

        return Twin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
