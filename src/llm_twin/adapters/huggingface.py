"""Models from a hub that speaks Hugging Face's protocol (`$HF_ENDPOINT`, by default huggingface.co).

The `huggingface_hub` package asks what there is, with the user's token; `HF_HUB_OFFLINE` and `HF_TOKEN` mean what they
mean elsewhere, and it is told to send no usage statistics. The files are fetched here, because that package (2.4)
begins a file anew when it was stopped in the middle, which is no way to get ten gigabytes.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import httpx2

from llm_twin.core.errors import ConfigError, ModelError, ModelMissing

if TYPE_CHECKING:
    from llm_twin.core.ports import Progress

SPARE_BYTES = 200_000_000
"""Disk space that a download leaves free."""
TRIES = 4
"""Tries to download a file, each where the last one stopped, with longer and longer waits between them."""
TIMEOUT_S = 30.0
"""Seconds the hub may take to say what a repository holds."""
_TEXTS = re.compile(r"[^/]+\.(json|jinja|model|txt)$")
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class _File:
    """A file as the hub lists it; `sha256` of what is stored apart, `blob` (git's SHA-1) of what is not."""

    name: str
    size: int
    sha256: str
    blob: str


class HuggingFaceHub:
    """A hub; `endpoint` empty means `$HF_ENDPOINT` or huggingface.co."""

    def __init__(self, endpoint: str = "", *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._endpoint = endpoint or os.environ.get("HF_ENDPOINT") or None

    def latest(self, repository: str) -> str:
        """The newest revision; see the port `ModelHub`."""
        with self._translated(repository) as hub:
            return str(hub.HfApi(endpoint=self._endpoint).model_info(repository, timeout=TIMEOUT_S).sha)

    def pull(self, repository: str, revision: str, folder: Path, *, file: str = "", progress: Progress) -> None:
        """Download what an engine needs of a repository, or one `file` of it; see the port `ModelHub`."""
        with self._translated(repository) as hub:
            told = hub.HfApi(endpoint=self._endpoint).model_info(
                repository, revision=revision, files_metadata=True, timeout=TIMEOUT_S
            )
            wanted = chosen(repository, [_listed(sibling) for sibling in told.siblings or ()], file=file)
            _check_space(folder, wanted)
            headers = hub.utils.build_hf_headers(library_name="llm-twin")
            for each in wanted:
                url = hub.hf_hub_url(repository, each.name, revision=revision, endpoint=self._endpoint)
                with progress.step(each.name, each.size) as advance:
                    self._fetch(url, headers, folder / each.name, each, advance)

    @contextmanager
    def _translated(self, repository: str) -> Iterator[Any]:
        """The package, its errors turned into ours."""
        hub = _hub()
        try:
            yield hub
        except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as error:
            raise self._not_readable(repository) from error
        except hub.errors.OfflineModeIsEnabled as error:
            raise ModelError(
                f"{repository} cannot be downloaded: HF_HUB_OFFLINE is set; unset it, or name a folder or file instead"
            ) from error
        except hub.errors.HFValidationError as error:
            raise ConfigError(f"{repository!r} is no name of a model: {_line(error)}; write OWNER/NAME") from error
        except httpx2.HTTPStatusError as error:
            if error.response.status_code in (401, 403):
                raise self._not_readable(repository) from error
            raise self._not_downloaded(repository, error) from error
        except (hub.errors.HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            raise self._not_downloaded(repository, error) from error

    def _fetch(
        self, url: str, headers: Mapping[str, str], path: Path, file: _File, advance: Callable[[int], None]
    ) -> None:
        """Download one file, or the rest of it. It gets its name once its checksum is right."""
        if path.exists() and _is_whole(path, file):
            advance(file.size)
            return
        part = path.with_name(f"{path.name}.{(file.sha256 or file.blob)[:12]}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
            if old != part:  # of another revision
                old.unlink()
        position = _Position(advance)
        for attempt in range(TRIES):
            try:
                _receive(url, headers, part, file, position)
                break
            except httpx2.TransportError:
                if attempt == TRIES - 1:
                    raise
                self._sleep(2.0**attempt)
        if not _is_whole(part, file):
            part.unlink()
            raise ModelError(
                f"{file.name} did not arrive as the hub has it (its checksum differs), so it was deleted; run it "
                "again, and if that does not help, tell whoever publishes the model"
            )
        part.replace(path)

    def _not_readable(self, repository: str) -> ModelMissing:
        return ModelMissing(
            f"{self._place()} has no model {repository!r} that may be read; check the name, and for a private or gated "
            "one set HF_TOKEN to a token that may read it"
        )

    def _not_downloaded(self, repository: str, error: Exception) -> ModelError:
        return ModelError(
            f"{repository} could not be downloaded from {self._place()}: {_line(error)}; run it again: what has "
            "arrived is kept"
        )

    def _place(self) -> str:
        return self._endpoint or "huggingface.co"


def chosen(repository: str, files: Sequence[_File], *, file: str = "") -> list[_File]:
    """The files that make one loadable model: a GGUF file, or a folder of weights with tokenizer and configuration.

    Left out are other formats of the same weights, and code: nothing that is downloaded is ever run. Raises
    `ConfigError` when there are several GGUF files to choose from, `ModelMissing` when there is no model.
    """
    safe = [each for each in files if ".." not in PurePosixPath(each.name).parts and not each.name.startswith("/")]
    models = {each.name: each for each in safe if each.name.endswith(".gguf") and not _later_part(each.name)}
    if file and file not in models:
        raise ModelMissing(f"{repository} has no GGUF file {file!r}; {_known(models)}")
    weights = [each for each in safe if "/" not in each.name and each.name.endswith(".safetensors")]
    compiled = [each for each in safe if each.name.startswith("openvino_") and each.name.endswith((".xml", ".bin"))]
    if file or (models and not weights and not compiled):
        if not file and len(models) > 1:
            raise ConfigError(f"{repository} has several GGUF files; name one, as in {repository}:{_named(models)}")
        return _parts(file or next(iter(models)), safe)
    if not weights and not compiled:
        raise ModelMissing(f"{repository} has neither safetensors nor GGUF files nor OpenVINO's; take a model that has")
    texts = [each for each in safe if _TEXTS.fullmatch(each.name)]
    return [*texts, *(weights or compiled)]


def _later_part(name: str) -> bool:
    return bool(_PART.search(name)) and "-00001-of-" not in name


def _parts(name: str, files: Sequence[_File]) -> list[_File]:
    """A GGUF file, with all its parts where it is split."""
    if not _PART.search(name):
        return [each for each in files if each.name == name]
    stem = _PART.sub("", name)
    return [each for each in files if _PART.search(each.name) and _PART.sub("", each.name) == stem]


def _known(models: dict[str, _File]) -> str:
    return f"it has {_named(models)}" if models else "it has none at all; leave the file out"


def _named(models: dict[str, _File]) -> str:
    return ", ".join(f"{each.name} ({each.size / 1e9:.1f} GB)" for each in models.values())


def _check_space(folder: Path, files: Sequence[_File]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    missing, free = max(0, sum(each.size for each in files) - parts), shutil.disk_usage(folder).free
    if missing + SPARE_BYTES > free:
        raise ModelError(
            f"{missing / 1e9:.1f} GB are to be downloaded and {free / 1e9:.1f} GB are free at {folder}; free some "
            "space (twin llm list, twin llm rm), or take a smaller model"
        )


def _is_whole(path: Path, file: _File) -> bool:
    """Whether a file is what the hub says: by SHA-256 where it tells that, else by git's own checksum."""
    if file.sha256:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
    header = f"blob {path.stat().st_size}\0".encode()
    return not file.blob or hashlib.sha1(header + path.read_bytes(), usedforsecurity=False).hexdigest() == file.blob


def _listed(sibling: Any) -> _File:
    lfs = sibling.lfs
    size, sha256 = (lfs.size, lfs.sha256) if lfs else (sibling.size or 0, "")
    return _File(str(sibling.rfilename), int(size), str(sha256), str(sibling.blob_id or ""))


class _Position:
    """How far a file is; tells `advance` the difference, also where a try begins behind the one before."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._at = 0

    def move(self, to: int) -> None:
        self._advance(to - self._at)
        self._at = to


def _receive(url: str, headers: Mapping[str, str], part: Path, file: _File, position: _Position) -> None:
    """Append what is missing of a file to its part."""
    begin = part.stat().st_size if part.exists() else 0
    position.move(begin)
    if part.exists() and begin >= file.size:  # what is too long is found by its checksum, and deleted
        return
    asked = {**headers, "Accept-Encoding": "identity", **({"Range": f"bytes={begin}-"} if begin else {})}
    with httpx2.stream("GET", url, headers=asked, follow_redirects=True, timeout=TIMEOUT_S) as reply:
        reply.raise_for_status()
        # A server that knows no ranges sends the whole file again.
        begin = begin if reply.status_code == 206 else 0
        with part.open("ab" if begin else "wb") as out:
            for piece in reply.iter_bytes():
                out.write(piece)
                begin += len(piece)
                position.move(begin)


def _hub() -> Any:
    import huggingface_hub.constants
    import huggingface_hub.errors

    # Read from the environment when it is imported, and another part may have imported it already.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    return huggingface_hub


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
