"""Models from a hub that speaks Hugging Face's protocol (`$HF_ENDPOINT`, by default huggingface.co).

The `huggingface_hub` package asks and downloads; here is what to download, whether it fits the disk, and whether it
arrived as the hub says it is. It is told to send no usage statistics; `HF_HUB_OFFLINE` and `HF_TOKEN` mean what they
mean elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from llm_twin.core.errors import ConfigError, ModelError, ModelMissing

if TYPE_CHECKING:
    from llm_twin.core.ports import Progress

SPARE_BYTES = 200_000_000
"""Disk space that a download leaves free."""
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

    def __init__(self, endpoint: str = "") -> None:
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
            for each in wanted:
                with progress.step(each.name, each.size) as advance:
                    self._fetch(hub, repository, each, folder, revision, advance)

    @contextmanager
    def _translated(self, repository: str) -> Iterator[Any]:
        """The package, its errors turned into ours."""
        hub = _hub()
        try:
            yield hub
        except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as error:
            raise ModelMissing(
                f"{self._place()} has no model {repository!r} that may be read; check the name, and for a private or "
                "gated one set HF_TOKEN to a token that may read it"
            ) from error
        except hub.errors.OfflineModeIsEnabled as error:
            raise ModelError(
                f"{repository} cannot be downloaded: HF_HUB_OFFLINE is set; unset it, or name a folder or file instead"
            ) from error
        except hub.errors.HFValidationError as error:
            raise ConfigError(f"{repository!r} is no name of a model: {_line(error)}; write OWNER/NAME") from error
        except (hub.errors.HfHubHTTPError, hub.errors.LocalEntryNotFoundError, _network_error(), OSError) as error:
            raise ModelError(
                f"{repository} could not be downloaded from {self._place()}: {_line(error)}; run it again: what has "
                "arrived is kept"
            ) from error

    def _fetch(
        self, hub: Any, repository: str, file: _File, folder: Path, revision: str, advance: Callable[[int], None]
    ) -> None:
        path = folder / file.name
        hub.hf_hub_download(
            repository,
            file.name,
            revision=revision,
            local_dir=folder,
            endpoint=self._endpoint,
            tqdm_class=_bar(advance),
        )
        if not _is_whole(path, file):
            path.unlink()
            with suppress(OSError):  # the package's note that this file is complete
                (folder / ".cache" / "huggingface" / "download" / f"{file.name}.metadata").unlink()
            raise ModelError(
                f"{file.name} of {repository} has another checksum than the hub says, so it was deleted; "
                "run it again, and if that does not help, tell whoever publishes the model"
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


def _bar(advance: Callable[[int], None]) -> type:
    """A stand-in for tqdm's bars that tells `advance`: the package knows no other way to watch a download."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, initial: int = 0, **options: Any) -> None:
            options["disable"] = True
            super().__init__(*args, initial=initial, **options)
            advance(int(initial))

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

    return Bar


def _hub() -> Any:
    import huggingface_hub

    # Read from the environment when it is imported, and another part may have imported it already.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    return huggingface_hub


def _network_error() -> type[Exception]:
    import httpx2

    return httpx2.HTTPError


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
