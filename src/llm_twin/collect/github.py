"""GitHub: what an account or a repository publishes, through the REST API, or a clone on this machine.

    account ─> repositories ─> their facts (one document each)
                 │              their files: one tree of git's hashes says what changed; only then one archive
                 └─> by choice  releases · issues and pull requests of the author · gists

An unchanged repository costs one conditional request, a changed one an archive more, however many files it has. Files
are told apart by their address on the default branch (`blob/HEAD`, which outlives its renaming).
"""

from __future__ import annotations

import re
import shutil
import stat
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from pathspec import GitIgnoreSpec

from llm_twin.collect import patterns
from llm_twin.collect.clone import CloneSource
from llm_twin.collect.fetch import Gone, HttpError
from llm_twin.collect.github_api import GITHUB, GitHubApi, token_for
from llm_twin.collect.reading import READERS_VERSION, Reading, document_from, heading_of, parse_date
from llm_twin.collect.repository import (
    MAX_BYTES,
    Choice,
    File,
    Origin,
    RepositoryFiles,
    blob_hash,
    read,
)
from llm_twin.collect.sources import SourceContext
from llm_twin.core.errors import ConfigError, ItemError, SourceError
from llm_twin.core.ports import Source
from llm_twin.core.records import Document, Item, ItemState, fingerprint

MAX_ARCHIVE_BYTES = 500_000_000
"""Size of a repository's archive, packed; a larger repository is collected from a clone."""
MAX_MEMBERS = 500_000
"""Files in one archive."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9-]{0,38}(?:_[A-Za-z0-9]{1,20})?"
_ADDRESS = re.compile(rf"/?({_NAME})(?:/([\w.-]{{1,100}}?)(?:\.git)?)?/?")
_SSH = re.compile(r"git@([\w.-]+):(.+)")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
"""What `zipfile` raises for members that are torn, encrypted or packed in an unknown way, and for a torn directory."""


class GitHubSource:
    """What an account (`https://github.com/NAME`) or one repository (`…/NAME/REPO`) publishes.

    Always collected are prose (READMEs, Markdown, folders of documentation) and a document of facts per repository.
    `code` adds code, `languages` code of some languages; `include` and `exclude` are patterns as in .gitignore for
    paths in a repository, `max_bytes` bounds a file. Of an account, `repositories` are patterns of names to take,
    `forks` and `archived` whether those are taken; private ones never are, unless named by themselves. `releases`
    and `gists` add those, `issues` the issues and pull requests that `login` opened (default: the owner).
    """

    example: ClassVar[str] = "https://github.com/you"

    @classmethod
    def recognises(cls, address: str) -> bool:
        """Accounts and repositories on github.com, as an address of the web or of git, and `github:NAME/REPO`."""
        host, path = _parts(address)
        return host == GITHUB and bool(_ADDRESS.fullmatch(path))

    @classmethod
    def open(
        cls,
        address: str,
        context: SourceContext,
        *,
        code: bool = False,
        languages: tuple[str, ...] = (),
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        max_bytes: int = MAX_BYTES,
        repositories: tuple[str, ...] = (),
        forks: bool = False,
        archived: bool = True,
        releases: bool = False,
        gists: bool = False,
        issues: bool = False,
        login: str = "",
        platform: str = "github",
    ) -> Source:
        """The account or repository at an address, or the clone at a path; options as in the class.

        The token comes from $GITHUB_TOKEN or $GH_TOKEN, for a server of one's own from $GH_ENTERPRISE_TOKEN.
        """
        choice = Choice(code, languages, include, exclude, max_bytes)
        host, path = _parts(address)
        extras = Extras(repositories, forks, archived, releases, gists, issues, login)
        if not host:
            if extras != Extras():
                raise ConfigError(
                    f"{address!r} is a clone, which holds files only; collect releases, issues and the like from GitHub"
                )
            return CloneSource(address, context, choice=choice, platform=platform)
        found = _ADDRESS.fullmatch(path)
        if not found:
            raise ConfigError(f"{address!r} is neither an account nor a repository of {host}; use {cls.example}[/REPO]")
        if found[2] and (gists or repositories):
            raise ConfigError(f"{address!r} is one repository; `gists` and `repositories` are options of an account")
        api = GitHubApi(context.fetcher, host=host, token=token_for(host), now=context.now)
        name = "/".join(filter(None, found.groups()))
        return cls(address, context, name=name, api=api, choice=choice, extras=extras, platform=platform)

    def __init__(
        self,
        address: str,
        context: SourceContext,
        *,
        name: str,
        api: GitHubApi,
        choice: Choice,
        extras: Extras,
        platform: str = "github",
    ) -> None:
        self.name = address
        self.platform = platform
        self._target = name
        self._context = context
        self._api = api
        self._choice = choice
        self._extras = extras
        self._files = RepositoryFiles(choice, source=address, author=context.author, platform=platform, now=context.now)
        self._archives = _Archives(api)
        self._readers: dict[str, Callable[[], Reading]] = {}
        self._how = fingerprint(READERS_VERSION, context.author, platform)

    def list(self) -> Iterator[Item | ItemState]:
        """Repository by repository: its facts, its files, and what was chosen beside them; see `Source.list`.

        Raises `SourceError` when account or repository cannot be seen or the limits are used up, and at the end when
        one of the repositories could not be read.
        """
        self._files.clear()
        self._readers.clear()
        unreadable: list[str] = []
        try:
            for repository in self._repositories():
                reason = self._why_left_out(repository)
                if reason:
                    yield ItemState(self.name, repository.url, "skipped", reason)
                    continue
                try:
                    yield from self._of(repository)
                except ItemError as error:
                    unreadable.append(f"{repository.full_name}: {error.reason}")
            if self._extras.gists:
                yield from self._gists()
        finally:
            self._archives.clear()
        if unreadable:
            raise SourceError(
                f"{self.name}: could not read {len(unreadable)} of its repositories, first {unreadable[0]}"
            )

    def fetch(self, item: Item) -> Document:
        """The document of a file, repository, release, issue or gist; see `Source.fetch`."""
        if item.key in self._files:
            return self._files.document(item.key)
        if item.key not in self._readers:
            raise ItemError("is not listed any more; collect again")
        return document_from(
            replace(self._readers[item.key](), url=item.key),
            author=self._context.author,
            source=self.platform,
            locator=item.key,
            path="",
            fetched_at=self._context.now(),
        )

    # --- repositories -----------------------------------------------------------------------------------------------

    def _repositories(self) -> Sequence[Repository]:
        try:
            if "/" in self._target:
                return [Repository.of(self._api.get(f"/repos/{self._target}"))]
            # All of them before the first is read: a list that grows while it is read would skip some.
            listed = self._api.pages(f"/users/{self._target}/repos?type=owner&sort=full_name&per_page=100")
            return [Repository.of(entry) for entry in listed]
        except Gone as error:
            raise SourceError(
                f"{self._api.host} has no {'repository' if '/' in self._target else 'account'} {self._target!r}, or "
                "shows it to nobody without the right token; correct the address, or set GITHUB_TOKEN"
            ) from error

    def _why_left_out(self, repository: Repository) -> str | None:
        if "/" in self._target:
            return None
        if not self._extras.takes(repository.name):
            return "is not among the `repositories` chosen"
        if repository.is_fork and not self._extras.forks:
            return "is a fork; set forks = true to collect those too"
        if repository.is_archived and not self._extras.archived:
            return "is archived; set archived = true to collect those too"
        return None

    def _of(self, repository: Repository) -> Iterator[Item | ItemState]:
        about = repository.reading()
        if about is None:
            yield ItemState(self.name, repository.url, "skipped", "has neither a description nor topics")
        else:
            yield self._item(repository.url, fingerprint(about), lambda: about)
        origin = Origin(
            name=repository.name,
            locator=repository.full_name,
            url=f"{repository.url}/blob/HEAD/",
            tags=repository.tags,
            read=lambda file: self._content(repository, file),
            changed_at=lambda _: repository.pushed_at,
        )
        yield from self._files.items(origin, self._tree(repository))
        if self._extras.releases:
            yield from self._releases(repository)
        if self._extras.issues:
            yield from self._issues(repository)

    def _item(self, key: str, version: str, read: Callable[[], Reading]) -> Item:
        self._readers[key] = read
        return Item(key, fingerprint(self._how, version)[:32])

    # --- files ------------------------------------------------------------------------------------------------------

    def _tree(self, repository: Repository) -> Sequence[File]:
        """Every file of the default branch."""
        try:
            answer = self._api.get(f"{repository.path}/git/trees/{quote(repository.branch, safe='')}?recursive=1")
        except HttpError as error:
            if error.status == 409:  # the repository is empty
                return []
            raise
        try:
            if answer.get("truncated"):  # beyond 100,000 files or 7 MB
                return list(self._archives.of(repository).files(self._choice))
            return [
                File(entry["path"], entry["sha"], int(entry.get("size") or 0), is_link=entry["mode"] == "120000")
                for entry in answer["tree"]
                if entry["type"] == "blob"
            ]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _unknown_form(f"the files of {repository.full_name}", repr(error)) from error

    def _content(self, repository: Repository, file: File) -> bytes:
        """The content of exactly this version of a file: from the archive, or alone where that holds another one.

        An archive differs where the branch moved on after the listing, and where .gitattributes leave a file out of it
        or change its line ends or contents (`export-ignore`, `eol`, `export-subst`).
        """
        content = self._archives.of(repository).read(file)
        for candidate in (content, content and content.replace(b"\r\n", b"\n")):
            if candidate is not None and blob_hash(candidate, like=file.blob) == file.blob:
                return candidate
        return self._api.raw(f"{repository.path}/git/blobs/{file.blob}", max_bytes=self._choice.max_bytes)

    # --- releases, issues, gists ------------------------------------------------------------------------------------

    def _releases(self, repository: Repository) -> Iterator[Item | ItemState]:
        for entry in self._entries(f"{repository.path}/releases?per_page=100"):
            if entry.get("draft"):
                continue
            title = entry.get("name") or _said(entry, "tag_name")
            if repository.name.lower() not in title.lower():
                title = f"{repository.name} {title}"
            yield self._post(entry, title, entry.get("published_at"), repository)

    def _issues(self, repository: Repository) -> Iterator[Item | ItemState]:
        login = self._extras.login or (repository.owner if repository.owner_is_person else "")
        if not login:
            raise SourceError(
                f"{repository.owner} is an organisation, and `issues` collects those of one person; say whose with "
                'login = "NAME"'
            )
        path = f"{repository.path}/issues?creator={quote(login)}&state=all&sort=created&direction=asc&per_page=100"
        for entry in self._entries(path):
            if _said(entry, "user", "login").lower() == login.lower():
                yield self._post(entry, _said(entry, "title"), entry.get("created_at"), repository)

    def _post(self, entry: Mapping[str, Any], title: str, moment: Any, repository: Repository) -> Item | ItemState:
        key, body = _said(entry, "html_url"), str(entry.get("body") or "")
        if not body.strip():
            return ItemState(self.name, key, "skipped", "has a title and no text")
        reading = Reading(body, title=title, published_at=parse_date(moment), tags=repository.tags, kind="post")
        return self._item(key, fingerprint(reading), lambda: reading)

    def _gists(self) -> Iterator[Item | ItemState]:
        for entry in self._entries(f"/users/{self._target}/gists?per_page=100"):
            for name, about in sorted((entry.get("files") or {}).items()):
                # A gist holds what its author put there for reading, as a folder of documentation does.
                kind = self._choice.kind(f"docs/{name}")
                if kind is None:
                    continue
                anchor = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
                key, size = f"{_said(entry, 'html_url')}#file-{anchor}", int(_said(about, "size"))
                reason = self._choice.why_too_large(size)
                if reason:
                    yield ItemState(self.name, key, "skipped", reason)
                    continue
                gist = _Gist(
                    name=name,
                    description=str(entry.get("description") or ""),
                    raw_url=_said(about, "raw_url"),  # it names the revision, so it is new when the content is
                    created_at=parse_date(entry.get("created_at")),
                    is_code=kind == "code",
                )
                yield self._item(key, fingerprint(gist), partial(self._read_gist, gist))

    def _read_gist(self, gist: _Gist) -> Reading:
        content = self._api.elsewhere(gist.raw_url, max_bytes=self._choice.max_bytes)
        reading = read(gist.name, content, is_code=gist.is_code)
        if gist.is_code:
            title = f"{gist.name}: {gist.description}" if gist.description else gist.name
        else:
            title = reading.title or heading_of(reading.text) or gist.description or gist.name
        return replace(
            reading,
            title=title,
            published_at=reading.published_at or gist.created_at,
            kind=reading.kind or "article",
        )

    def _entries(self, path: str) -> Iterator[Mapping[str, Any]]:
        """The entries of a list; none where a repository has switched that off."""
        try:
            for entry in self._api.pages(path):
                if not isinstance(entry, Mapping):
                    raise _unknown_form(path, entry)
                yield entry
        except Gone:
            return


@dataclass(frozen=True)
class Extras:
    """What is collected of an account beside the files, and which of its repositories."""

    repositories: tuple[str, ...] = ()
    forks: bool = False
    archived: bool = True
    releases: bool = False
    gists: bool = False
    issues: bool = False
    login: str = ""

    def __post_init__(self) -> None:
        patterns.of_option(self.repositories, option="repositories")

    def takes(self, name: str) -> bool:
        """Whether a repository of that name is among those chosen."""
        return self._taken is None or self._taken.match_file(name)

    @cached_property
    def _taken(self) -> GitIgnoreSpec | None:
        all_but_some = ("*",) if self.repositories[:1] and self.repositories[0].startswith("!") else ()
        if not self.repositories:
            return None
        return patterns.of_option((*all_but_some, *self.repositories), option="repositories")


@dataclass(frozen=True, slots=True)
class Repository:
    """What the API says of a repository, as far as it matters here. `url` is its address on the web."""

    owner: str
    name: str
    url: str
    branch: str
    owner_is_person: bool
    description: str = ""
    homepage: str = ""
    language: str = ""
    topics: tuple[str, ...] = ()
    stars: int = 0
    is_fork: bool = False
    is_archived: bool = False
    created_at: datetime | None = None
    pushed_at: datetime | None = None

    @classmethod
    def of(cls, entry: Any) -> Repository:
        """A repository from its JSON. Raises `SourceError` for what is none."""
        try:
            return cls(
                owner=str(entry["owner"]["login"]),
                name=str(entry["name"]),
                url=str(entry["html_url"]),
                branch=str(entry.get("default_branch") or "HEAD"),
                owner_is_person=entry["owner"].get("type") != "Organization",
                description=(entry.get("description") or "").strip(),
                homepage=(entry.get("homepage") or "").strip(),
                language=entry.get("language") or "",
                topics=tuple(map(str, entry.get("topics") or ())),
                stars=int(entry.get("stargazers_count") or 0),
                is_fork=bool(entry.get("fork")),
                is_archived=bool(entry.get("archived")),
                created_at=parse_date(entry.get("created_at")),
                pushed_at=parse_date(entry.get("pushed_at")),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _unknown_form("a repository", repr(error)) from error

    @property
    def full_name(self) -> str:
        """`NAME/REPO`."""
        return f"{self.owner}/{self.name}"

    @property
    def path(self) -> str:
        """Where the API has it."""
        return f"/repos/{quote(self.owner)}/{quote(self.name)}"

    @property
    def tags(self) -> tuple[str, ...]:
        """Its language and topics, for everything in it."""
        language = re.sub(r"\s+", "-", self.language.lower())
        return (*([f"language:{language}"] if language else ()), *self.topics)

    def reading(self) -> Reading | None:
        """Its facts as a text; None when its owner says nothing about it.

        Stars count by powers of ten: every single one would make another document.
        """
        if not (self.description or self.topics):
            return None
        topics = f"Topics: {', '.join(self.topics)}" if self.topics else ""
        facts = [f"Language: {self.language}" if self.language else "", self.homepage and f"Homepage: {self.homepage}"]
        text = "\n\n".join(part for part in (self.description, topics, *facts) if part)
        stars = [f"stars:{10 ** (len(str(self.stars)) - 1)}+"] if self.stars >= 10 else []
        return Reading(
            text,
            title=self.full_name,
            published_at=self.created_at,
            tags=(*self.tags, *stars, *(["archived"] if self.is_archived else [])),
            kind="repository",
        )


@dataclass(frozen=True, slots=True)
class _Gist:
    """A file of a gist."""

    name: str
    description: str
    raw_url: str
    created_at: datetime | None
    is_code: bool


# --- archives -------------------------------------------------------------------------------------------------------


class Archive:
    """A zip of a commit as GitHub makes it: every name begins with one folder. Nothing is ever unpacked to disk.

    Only members that a caller names are read, and no further than it says, so neither names that lead elsewhere nor
    members that expand without end matter. Raises `ItemError` for an archive that is damaged.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self._name = name
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise self._damaged(error) from error
        members = self._zip.infolist()
        if len(members) > MAX_MEMBERS:
            raise ItemError(f"the archive of {name} holds {len(members):,} files; {_CLONE_IT}")
        self._members: Mapping[str, zipfile.ZipInfo] = {
            each.filename.partition("/")[2]: each
            for each in members
            if not each.is_dir() and not stat.S_ISLNK(each.external_attr >> 16)
        }

    def close(self) -> None:
        """Let go of the file."""
        self._zip.close()

    def read(self, file: File) -> bytes | None:
        """The content of a file; None when the archive does not hold it in that size (line ends aside)."""
        member = self._members.get(file.path)
        # Line ends may have become CRLF, which at most doubles a file.
        return None if member is None else self._bytes(member, 2 * file.size)

    def files(self, choice: Choice) -> Iterator[File]:
        """The files that a choice wants, and .gitattributes, with the hashes git gives them."""
        for path, member in self._members.items():
            parts = path.split("/")
            wanted = choice.kind(path) or parts[-1] == ".gitattributes"
            if not wanted or not {"", ".", ".."}.isdisjoint(parts) or "\\" in path:
                continue
            content = self._bytes(member, choice.max_bytes) if member.file_size <= choice.max_bytes else None
            if content is None:  # too large: what it says of its size is enough to leave it out
                yield File(path, f"{member.CRC:08x}", max(member.file_size, choice.max_bytes + 1))
            else:
                yield File(path, blob_hash(content, like=""), len(content))

    def _bytes(self, member: zipfile.ZipInfo, limit: int) -> bytes | None:
        """What a member holds, None when that is more than `limit` bytes, whatever the archive says of its size."""
        try:
            with self._zip.open(member) as stream:
                content = stream.read(limit + 1)
        except _DAMAGE as error:
            raise self._damaged(error) from error
        return content if len(content) <= limit else None

    def _damaged(self, error: Exception) -> ItemError:
        return ItemError(f"the archive of {self._name} is damaged ({error}); collect again")


_CLONE_IT = 'clone it, and name the folder with kind = "github"'


@dataclass
class _Archives:
    """The archive of the repository being read, downloaded when its first file is asked for, and one at a time.

    One that could not be had is not asked for again in this run: every one of its files fails with the reason.
    """

    api: GitHubApi
    _folder: Path | None = None
    _held: tuple[str, Archive] | None = None
    _failed: dict[str, ItemError] = field(default_factory=dict)

    def of(self, repository: Repository) -> Archive:
        """The archive of the default branch. Raises `ItemError` when it cannot be had."""
        name = repository.full_name
        if self._held and self._held[0] == name:
            return self._held[1]
        if name in self._failed:
            raise self._failed[name]
        try:
            archive = self._download(repository)
        except ItemError as error:
            # Too large is a failure here, not a decision: the documents there were stay.
            advice = f"; {_CLONE_IT}" if error.skipped else ""
            self._failed[name] = ItemError(f"{error.reason}{advice}")
            raise self._failed[name] from error
        self._held = (name, archive)
        return archive

    def clear(self) -> None:
        """Delete what was downloaded, and forget failures."""
        self._failed.clear()
        if self._held:
            self._held[1].close()
            self._held = None
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _download(self, repository: Repository) -> Archive:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="llm-twin-"))
            # For what is fetched after the listing, or by a run that was broken off.
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        if self._held:
            self._held[1].close()
            self._held = None
        path = self._folder / "archive.zip"
        branch = quote(repository.branch, safe="")
        self.api.download(f"{repository.path}/zipball/{branch}", path, max_bytes=MAX_ARCHIVE_BYTES)
        return Archive(path, name=repository.full_name)


# --- addresses ------------------------------------------------------------------------------------------------------


def _parts(address: str) -> tuple[str, str]:
    """Host, with its port where the API stands on one, and path of an address; no host for a path on this machine."""
    if address.startswith("github:"):
        return GITHUB, address.removeprefix("github:")
    ssh = _SSH.fullmatch(address)
    if ssh:
        return ssh[1].lower(), ssh[2]
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https", "ssh", "git"):
        return "", address
    host = (parts.hostname or "").removeprefix("www.")
    try:
        own_port = parts.port if parts.scheme in ("http", "https") else None  # the API is not behind git's
    except ValueError as error:
        raise ConfigError(f"{address!r} is no address: {error}; correct it") from None
    return f"{host}:{own_port}" if own_port not in (None, 80, 443) else host, parts.path


def _said(entry: Any, *names: str) -> str:
    """What an answer says at a place. Raises `SourceError` when it says nothing there."""
    found = entry
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    if found is None or isinstance(found, Mapping):
        raise _unknown_form(".".join(names), entry)
    return str(found)


def _unknown_form(what: str, got: object) -> SourceError:
    return SourceError(f"GitHub answered with {what} in a form that is not known ({str(got)[:200]}); try again later")
