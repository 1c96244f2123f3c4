"""Files on this machine: a folder, a file or a glob becomes items, and each item a document.

What is left out of a folder: hidden files, `node_modules` and the like, what `.gitignore` and `.twinignore` name from
the folder down, and types that are no writing. What cannot become a document although it was asked for (empty, binary,
too large, broken) is reported with its reason.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from pathspec import GitIgnoreSpec

from llm_twin.collect import jsonl, patterns
from llm_twin.collect.export import refuse_archive
from llm_twin.collect.formats import READERS, reader_for
from llm_twin.collect.reading import READERS_VERSION, Reading, document_from, parsing
from llm_twin.collect.sources import SourceContext
from llm_twin.collect.vault import NOTE_SUFFIXES, Vault, is_vault, wiki_links, with_properties, without_ids
from llm_twin.core.errors import ItemError, SourceError
from llm_twin.core.records import Document, Item, ItemState, Outcome, fingerprint

MAX_BYTES = 20_000_000
"""Size of a file, or of one line of a .jsonl file, that is still taken for one author's document."""
MAX_LINE = 1_000_000
"""Characters in one line of text above which it is taken for data."""
CLOCK_RESOLUTION_NS = 2_000_000_000
"""The coarsest file time in use (FAT: two seconds)."""
IGNORED_FOLDERS = ("node_modules/", "bower_components/", "site-packages/", "__pycache__/", "venv/", "_site/")
_MAGIC = re.compile(r"[*?\[]")
_HOST = re.compile(r"(?:[a-z0-9-]+\.)+(?:[a-z]{2,}|\d+)(?::\d+)?(?:/|$)", re.IGNORECASE)
"""How an address of the web begins whose `https://` was left out; files have such names, too."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Rules:
    """Ignore patterns of one folder; `base` is the folder relative to the root, ending in `/` unless empty."""

    base: str
    spec: GitIgnoreSpec


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder on the way down: where it is, its key's beginning, the rules above it, and the folders around it."""

    path: Path
    base: str = ""
    rules: tuple[_Rules, ...] = ()
    around: frozenset[tuple[int, int]] = frozenset()


class FilesSource:
    """Documents in a file, a folder or a glob (`posts/**/*.md`), told apart by path, and by id within `.jsonl` files.

    `include` and `exclude` are patterns as in .gitignore, relative to the folder; a file type that is otherwise left
    alone is read as text when a pattern or the path names it. `source` is the platform recorded in the documents,
    `name` the address as configured (default: `path`). A document without a canonical URL is identified by its path
    below the folder, with the folder's own name before it: moving the folder changes nothing, and two folders that
    both hold a README.md do not collide.

    After a listing `ignored` counts the files of other types, by suffix.
    """

    example: ClassVar[str] = "./posts"

    @classmethod
    def recognises(cls, address: str) -> bool:
        """Everything that is not a URL is a path."""
        return "://" not in address

    @classmethod
    def open(
        cls,
        address: str,
        context: SourceContext,
        *,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        platform: str = "files",
    ) -> FilesSource:
        """The files at a path, which may be relative to twin.toml; options as in the class, `platform` its `source`."""
        return cls(
            context.root / Path(address).expanduser(),
            name=address,
            author=context.author,
            include=include,
            exclude=exclude,
            source=platform,
            now=context.now,
        )

    def __init__(
        self,
        path: str | Path,
        *,
        author: str,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
        max_line: int = MAX_LINE,
        source: str = "files",
        name: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = name or str(path)
        self.author = author
        self.platform = source
        self.max_bytes = max_bytes
        self.max_line = max_line
        self.ignored: Counter[str] = Counter()
        self._now = now
        self._root, pattern = _split_glob(Path(path).expanduser())
        self._asked = [*include, *([pattern] if pattern else [])]
        self._include = patterns.of_option(include, option="include") if include else None
        self._glob = patterns.of_option([f"/{pattern}"], option="address") if pattern else None
        self._exclude = patterns.of_option([*IGNORED_FOLDERS, *exclude], option="exclude")
        self._lines: dict[str, tuple[str, jsonl.Line]] = {}
        self._unreadable: list[str] = []
        self._vault: Vault | None = None
        # Versions cover what decides how bytes become a document, so that a change of it reads every file again.
        self._how = fingerprint(READERS_VERSION, author, source, max_bytes, max_line)[:8]

    def list(self) -> Iterator[Item | ItemState]:
        """Every item in order of its path; see `Source.list`.

        Raises `SourceError` when the path does not exist or cannot be read, and at the end when a folder below could
        not be read.
        """
        self.ignored.clear()
        self._lines.clear()
        self._unreadable.clear()
        found = self._root_stat()
        if stat.S_ISDIR(found.st_mode):
            listed = self._below(_Folder(self._root, around=frozenset({(found.st_dev, found.st_ino)})))
            yield from self._in_vault(listed) if is_vault(self._root) else listed
        else:
            refuse_archive(self._root, name=self.name)
            yield from self._one(self._root.name, found)
        if self.ignored:
            logger.info("%s: %d files of other types ignored", self.name, self.ignored.total())
        if self._unreadable:
            raise SourceError(
                f"{self.name}: could not read {len(self._unreadable)} of its folders and lists, first "
                f"{self._unreadable[0]}; make them readable, or leave them out with `exclude`"
            )

    def fetch(self, item: Item) -> Document:
        """Read the file or line behind an item; see `Source.fetch`."""
        with parsing("open and save it again"):
            try:
                return self._fetch_line(item) if self._is_line(item.key) else self._fetch_file(item.key)
            except OSError as error:
                raise ItemError(f"cannot be read: {error.strerror or error}; check its permissions") from error

    def key_of(self, path: Path) -> str | None:
        """See `Divisible.key_of`: the path as written counts first, then where its links lead."""
        if not self._root.is_dir():
            return None
        for leads_to in (os.path.abspath, os.path.realpath):
            inner, folder = Path(leads_to(path)), Path(leads_to(self._root))
            if inner != folder and inner.is_relative_to(folder):
                return inner.relative_to(folder).as_posix()
        return None

    # --- listing ----------------------------------------------------------------------------------------------------

    def _root_stat(self) -> os.stat_result:
        try:
            return self._root.stat()
        except OSError as error:
            where = "" if str(self._root) == self.name else f" ({self._root})"
            web = _HOST.match(self.name) and _suffix(self.name) not in READERS
            advice = f"correct it, or write https://{self.name} if that is meant" if web else "correct its address"
            raise SourceError(f"cannot read the source {self.name!r}: {error.strerror}{where}; {advice}") from error

    def _below(self, folder: _Folder) -> Iterator[Item | ItemState]:
        try:
            with os.scandir(folder.path) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
            rules = (*folder.rules, *_rules_of(folder.path, folder.base))
        except OSError as error:
            self._unreadable.append(f"{folder.base or '.'} ({error.strerror})")
            return
        for entry in entries:
            key = folder.base + entry.name
            if entry.name.startswith("."):
                continue
            try:
                found = entry.stat()
            except OSError as error:
                if self._wanted(key, rules):
                    yield self._state(key, "failed", _why_no_stat(entry, error))
                continue
            if not stat.S_ISDIR(found.st_mode):
                if self._wanted(key, rules):
                    yield from self._one(key, found)
            elif not self._pruned(f"{key}/", rules):
                identity = (found.st_dev, found.st_ino)
                back = self._leads_back(Path(entry.path), identity, folder) if entry.is_symlink() else None
                if back:
                    yield self._state(key, "skipped", f"is a link back to {back}, which is read in its own place")
                else:
                    yield from self._below(_Folder(Path(entry.path), f"{key}/", rules, folder.around | {identity}))

    def _in_vault(self, listed: Iterable[Item | ItemState]) -> Iterator[Item | ItemState]:
        """The listing of a vault, in which the version of a page covers where its wiki links lead.

        A page is then read again exactly when another that it links to comes, goes, moves or gets another URL.
        """
        waiting = [*listed]
        urls: dict[str, str | None] = {}
        links: dict[str, tuple[tuple[str, str], ...]] = {}
        for each in waiting:
            if isinstance(each, Item) and not self._is_line(each.key):
                urls[each.key], links[each.key] = self._page(each.key)
        vault = self._vault = Vault(urls)
        for each in waiting:
            if isinstance(each, Item) and each.version and links.get(each.key):
                lead = fingerprint(vault.addresses(links[each.key], each.key))[:16]
                yield replace(each, version=f"{each.version}:{lead}")
            else:
                yield each

    def _page(self, key: str) -> tuple[str | None, tuple[tuple[str, str], ...]]:
        """Canonical URL and wiki links of a page."""
        if _suffix(key) not in NOTE_SUFFIXES:
            return None, ()
        try:
            reading = reader_for(_suffix(key))(self._path(key).read_bytes())
            return reading.url, wiki_links(reading.text)
        except Exception:  # whatever it is, it happens again where the page is fetched, and is reported there
            return None, ()

    def _leads_back(self, link: Path, identity: tuple[int, int], folder: _Folder) -> Path | None:
        """Where a linked folder leads when that is read anyway or would never end: inside the source, or around it."""
        target, root = link.resolve(), self._root.resolve()
        back = identity in folder.around or target.is_relative_to(root) or root.is_relative_to(target)
        return target if back else None

    def _pruned(self, key: str, rules: tuple[_Rules, ...]) -> bool:
        return self._exclude.match_file(key) or _ignored(key, rules)

    def _wanted(self, key: str, rules: tuple[_Rules, ...]) -> bool:
        """Whether a file is to be listed; counts it when only its type speaks against it."""
        if self._pruned(key, rules):
            return False
        if (self._include and not self._include.match_file(key)) or (self._glob and not self._glob.match_file(key)):
            return False
        suffix = _suffix(key)
        if suffix in READERS or suffix == ".jsonl" or self._named(key):
            return True
        self.ignored[suffix or "(none)"] += 1
        return False

    def _named(self, key: str) -> bool:
        """Whether a pattern names this very file or its suffix (`LICENSE`, `*.cfg`)."""
        name = key.rsplit("/", 1)[-1]
        last = [pattern.rsplit("/", 1)[-1] for pattern in self._asked]
        return any(asked == name or (_suffix(asked) and _suffix(asked) == _suffix(name)) for asked in last)

    def _one(self, key: str, found: os.stat_result) -> Iterator[Item | ItemState]:
        """The item or items of one file."""
        try:
            key.encode()
        except UnicodeEncodeError:
            safe = os.fsencode(key).decode("utf-8", "backslashreplace")
            yield self._state(safe, "failed", "has a name that is not UTF-8; rename it")
            return
        if not stat.S_ISREG(found.st_mode):
            yield self._state(key, "skipped", "is no regular file (a pipe, socket or device)")
        elif found.st_size == 0:
            yield self._state(key, "skipped", "is empty", self._version(key, found))
        elif _suffix(key) == ".jsonl":
            yield from self._jsonl(key)
        elif found.st_size > self.max_bytes:
            reason = f"has {found.st_size:,} bytes, more than {self.max_bytes:,}; raise max_bytes to collect it"
            yield self._state(key, "skipped", reason, self._version(key, found))
        else:
            yield Item(key, self._version(key, found))

    def _jsonl(self, key: str) -> Iterator[Item | ItemState]:
        try:
            for line in jsonl.scan(self._path(key), max_bytes=self.max_bytes):
                if isinstance(line, jsonl.BadLine):
                    bad_key = f"{key}#{line.id}" if line.id else f"{key}:{line.number}"
                    yield self._state(bad_key, "skipped" if line.skipped else "failed", line.reason)
                    continue
                self._lines[f"{key}#{line.id}"] = (key, line)
                yield Item(f"{key}#{line.id}", f"{self._how}:{line.digest}")
        except ItemError as error:
            yield self._state(key, "skipped" if error.skipped else "failed", error.reason)
        except OSError as error:
            # Nobody knows which lines are still there, so the listing is incomplete and nothing counts as removed.
            yield self._state(key, "failed", f"cannot be read: {error.strerror}; check its permissions")
            self._unreadable.append(f"{key} ({error.strerror})")

    def _version(self, key: str, found: os.stat_result) -> str | None:
        """Something that differs whenever the content may: times, size and inode, or the hash of a file just written.

        A file changed within the clock's resolution of this look could change again and keep its times and size, so
        for it alone the content decides (git's rule for "racy" entries). None when it cannot be read.
        """
        changed_ns = max(found.st_mtime_ns, found.st_ctime_ns)
        if changed_ns < time.time_ns() - CLOCK_RESOLUTION_NS:
            return f"{self._how}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"
        try:
            with self._path(key).open("rb") as stream:
                return f"{self._how}:{hashlib.file_digest(stream, 'sha256').hexdigest()[:32]}"
        except OSError:
            return None

    def _state(self, key: str, outcome: Outcome, reason: str, version: str | None = None) -> ItemState:
        return ItemState(self.name, key, outcome, reason, version)

    @property
    def _base(self) -> Path:
        """The folder that keys are relative to."""
        return self._root if self._root.is_dir() else self._root.parent

    def _path(self, key: str) -> Path:
        return self._base / key

    # --- fetching ---------------------------------------------------------------------------------------------------

    def _fetch_file(self, key: str) -> Document:
        path = self._path(key)
        with path.open("rb") as stream:
            data = stream.read(self.max_bytes + 1)
            modified_at = datetime.fromtimestamp(os.fstat(stream.fileno()).st_mtime, UTC)
        if len(data) > self.max_bytes:
            raise ItemError(f"grew to more than {self.max_bytes:,} bytes; raise max_bytes to collect it", skipped=True)
        reading = reader_for(_suffix(key))(data)
        if _suffix(key) in NOTE_SUFFIXES:
            text = self._known_vault().linked(reading.text, key) if is_vault(self._root) else reading.text
            reading = with_properties(replace(reading, text=text), key)
        path_shown = without_ids(key)
        return self._document(reading, locator=key, path=path_shown, source=self.platform, modified_at=modified_at)

    def _known_vault(self) -> Vault:
        """The pages of the vault; the folder is listed for them when that has not been done."""
        if self._vault is None:
            with suppress(SourceError):  # a folder that cannot be read is a problem of listings
                deque(self.list(), maxlen=0)
        return self._vault or Vault({})

    def _is_line(self, key: str) -> bool:
        return key in self._lines or ".jsonl#" in key

    def _fetch_line(self, item: Item) -> Document:
        file_key, line = self._line(item.key)
        with self._path(file_key).open("rb") as stream:
            stream.seek(line.offset)
            data = stream.read(line.length)
        if jsonl.digest(data) != line.digest:
            raise ItemError(f"changed while {file_key} was being read; collect again")
        found = jsonl.record(data)
        source = found.source or self.platform
        return self._document(found.reading, locator=item.key, path=found.path, source=source, modified_at=None)

    def _line(self, key: str) -> tuple[str, jsonl.Line]:
        """Where a line stands; the file is scanned for it when no listing has done so."""
        if key not in self._lines:
            file_key = key[: key.index(".jsonl#") + len(".jsonl")]
            for line in jsonl.scan(self._path(file_key), max_bytes=self.max_bytes):
                if isinstance(line, jsonl.Line):
                    self._lines[f"{file_key}#{line.id}"] = (file_key, line)
        if key not in self._lines:
            raise ItemError("is not in its file any more; collect again")
        return self._lines[key]

    def _document(
        self, reading: Reading, *, locator: str, path: str, source: str, modified_at: datetime | None
    ) -> Document:
        self._check_lines(reading.text)
        own_name = self._base.name
        return document_from(
            reading,
            author=self.author,
            source=source,
            locator=f"{own_name}/{locator}" if own_name not in ("", "..") else locator,
            path=path,
            fetched_at=self._now(),
            modified_at=modified_at,
        )

    def _check_lines(self, text: str) -> None:
        longest = max(map(len, text.split("\n")), default=0) if len(text) > self.max_line else 0
        if longest > self.max_line:
            raise ItemError(
                f"has a line of {longest:,} characters, more than {self.max_line:,} (max_line): data, not writing",
                skipped=True,
            )


def _split_glob(path: Path) -> tuple[Path, str]:
    """The folder before the first wildcard and the pattern below it; what exists under that name is no wildcard."""
    for number, part in enumerate(path.parts):
        if _MAGIC.search(part) and not os.path.lexists(Path(*path.parts[: number + 1])):
            return Path(*path.parts[:number]), "/".join(path.parts[number:])
    return path, ""


def _suffix(key: str) -> str:
    return os.path.splitext(key)[1].lower()  # noqa: PTH122 - a key is no path of this machine


def _rules_of(folder: Path, base: str) -> Iterator[_Rules]:
    """Patterns of a folder's .gitignore and, with the last word, its .twinignore."""
    lines: list[str] = []
    for name in (".gitignore", ".twinignore"):
        try:
            lines += (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
        except (FileNotFoundError, IsADirectoryError):
            continue
    if lines:
        yield _Rules(base, patterns.of_file(lines))


def _ignored(key: str, rules: tuple[_Rules, ...]) -> bool:
    """The innermost folder with something to say about a path decides, as in git."""
    for each in reversed(rules):
        said = each.spec.check_file(key[len(each.base) :]).include
        if said is not None:
            return said
    return False


def _why_no_stat(entry: os.DirEntry[str], error: OSError) -> str:
    if not entry.is_symlink():
        return f"cannot be read: {error.strerror}; check its permissions"
    target = os.readlink(entry.path)  # noqa: PTH115 - the text of the link, whether or not it leads anywhere
    if isinstance(error, FileNotFoundError):
        return f"is a link to {target}, which does not exist; mend or delete it"
    return f"is a link that leads in a circle (to {target}); mend or delete it"
