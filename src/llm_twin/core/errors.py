"""Every error a caller can meet, in one tree.

    TwinError                 anything this package raises on purpose
    ├── ConfigError           twin.toml, TWIN_* or an argument is wrong            exit 2
    ├── WorkspaceError        no workspace, one of another version, or not ours    exit 3
    │   └── WorkspaceBusy     another process is writing                           exit 4
    ├── SourceError           a source cannot be listed or understood              exit 5
    │   ├── PartialListing    a source that only ever shows its latest items ended
    │   └── ItemError         one item of a source cannot be read
    ├── StoreError            a warehouse or an index failed                       exit 6
    │   ├── MigrationError    the stored schema is not one this version can use
    │   └── IndexMismatch     the index was built by another embedder or layout
    ├── ModelError            an embedder or language model failed                 exit 7
    │   ├── ModelMissing      weights or an endpoint are not there
    │   ├── ModelBusy         a model serves as many as it can, and as many wait
    │   └── ReplyRefused      a model cannot do what a request asks of it
    ├── MissingExtra          an optional dependency is not installed              exit 8
    └── NotFound              the thing named does not exist                       exit 9

A message has three parts: what was wrong, the value, what to do next.
"""

from __future__ import annotations


class TwinError(Exception):
    """What went wrong, the value it went wrong with, and what to do next."""

    exit_code = 1


class ConfigError(TwinError):
    """A setting is unknown, ill-typed or contradictory."""

    exit_code = 2


class WorkspaceError(TwinError):
    """The folder is not a workspace this version can open."""

    exit_code = 3


class WorkspaceBusy(WorkspaceError):
    """Another process holds the writer's lock."""

    exit_code = 4


class SourceError(TwinError):
    """A source cannot be listed, so nothing about it may be concluded."""

    exit_code = 5


class PartialListing(SourceError):
    """A listing ended that shows the latest items only, as a feed does: what it leaves out may still be there.

    No failure: nothing counts as removed, and there is nothing to report.
    """


class ItemError(SourceError):
    """One item cannot become a document.

    `skipped` tells a decision (empty, binary, too large) from a failure (unreadable, broken); `gone` says that its
    address answers that there is nothing, and `passing` that the reason lies in what is installed here: an item skipped
    for it is asked for again, and a document it brought before stays. `host` names the host where the reason lies with
    it and not with the item: it cannot be reached, or wants to be left alone.
    """

    gone = False
    passing = False
    host = ""

    def __init__(self, reason: str, *, skipped: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.skipped = skipped


class StoreError(TwinError):
    """A warehouse or an index could not do what was asked."""

    exit_code = 6


class MigrationError(StoreError):
    """The stored schema is newer than this version, or cannot be brought up to it."""


class IndexMismatch(StoreError):
    """The index was built with another embedder, precision or layout."""


class ModelError(TwinError):
    """An embedder, re-ranker or language model failed."""

    exit_code = 7


class ModelMissing(ModelError):
    """Weights or an endpoint are not there; the message says how to get them."""


class ModelBusy(ModelError):
    """As many replies are being written, and waited for, as the model may serve; `retry_after_s` is a guess."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ReplyRefused(ModelError):
    """A request must change before the model can serve it; `field` is what of it, `code` OpenAI's word for why."""

    def __init__(self, message: str, *, field: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.field = field
        self.code = code


class MissingExtra(TwinError):
    """An optional dependency is not installed."""

    exit_code = 8

    def __init__(self, feature: str, extra: str, package: str) -> None:
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed; run: pip install 'llm-twin[{extra}]', "
            f"or in a checkout: pip install '.[{extra}]'"
        )


class NotFound(TwinError):
    """No document, trace or run of that name."""

    exit_code = 9
