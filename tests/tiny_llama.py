"""A Llama of random weights with a small byte-level tokenizer, written as a GGUF file or as a Hugging Face folder.

    path = tiny_llama.write_gguf(tmp_path / "tiny.gguf")          # F16, half a megabyte
    folder = tiny_llama.write_folder(tmp_path / "tiny")           # the same weights as safetensors

Both hold the same numbers, so every engine that loads one of them computes the same. `SMOL` has the shape of
SmolLM2-135M, for benchmarks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = ("the", "and", "ing", "er", "system", "user", "assistant", "what", "do", "I", "think")
UNITS = [*range(33, 127), *range(161, 173), *range(174, 256)]
"""Bytes that a byte-level tokenizer writes as themselves; the others stand behind all characters of Latin-1."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama."""

    vocabulary: int = 384
    width: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 128
    context: int = 512


TINY = Shape()
SMOL = Shape(vocabulary=49152, width=576, layers=30, heads=9, kv_heads=3, hidden=1536, context=8192)


def byte_letters() -> list[str]:
    """How byte-level BPE writes each byte (Radford et al. 2019, `bytes_to_unicode`)."""
    others = iter(range(256, 512))
    return [chr(byte) if byte in UNITS else chr(next(others)) for byte in range(256)]


def tokens_and_merges(size: int) -> tuple[list[str], list[str]]:
    """A vocabulary of `size`: special tokens, bytes, the pieces that merges make of a few words, and fillers."""
    tokens = [*SPECIAL, *byte_letters()]
    merges: list[str] = []
    for word in (*WORDS, *(f"Ġ{word}" for word in WORDS)):
        piece = word[0]
        for letter in word[1:]:
            if piece + letter not in tokens:
                tokens.append(piece + letter)
                merges.append(f"{piece} {letter}")
            piece += letter
    assert len(tokens) <= size, f"{len(tokens)} tokens do not fit a vocabulary of {size}"
    return tokens + [f"filler{number}" for number in range(size - len(tokens))], merges


def weights(shape: Shape = TINY, *, seed: int = 0) -> dict[str, NDArray[np.float16]]:
    """Random weights under the names of Hugging Face, embeddings tied to the output."""
    rng = np.random.default_rng(seed)
    head = shape.width // shape.heads

    def matrix(rows: int, columns: int) -> NDArray[np.float16]:
        return (rng.standard_normal((rows, columns), dtype=np.float32) * 2 / np.sqrt(columns)).astype(np.float16)

    named = {"model.embed_tokens.weight": matrix(shape.vocabulary, shape.width)}
    for layer in range(shape.layers):
        inside = f"model.layers.{layer}."
        named |= {
            inside + "self_attn.q_proj.weight": matrix(shape.width, shape.width),
            inside + "self_attn.k_proj.weight": matrix(shape.kv_heads * head, shape.width),
            inside + "self_attn.v_proj.weight": matrix(shape.kv_heads * head, shape.width),
            inside + "self_attn.o_proj.weight": matrix(shape.width, shape.width),
            inside + "mlp.gate_proj.weight": matrix(shape.hidden, shape.width),
            inside + "mlp.up_proj.weight": matrix(shape.hidden, shape.width),
            inside + "mlp.down_proj.weight": matrix(shape.width, shape.hidden),
            inside + "input_layernorm.weight": np.ones(shape.width, np.float16),
            inside + "post_attention_layernorm.weight": np.ones(shape.width, np.float16),
        }
    return named | {"model.norm.weight": np.ones(shape.width, np.float16)}


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(
    path: Path, shape: Shape = TINY, *, seed: int = 0, quantised: bool = False, template: str = CHAT_TEMPLATE
) -> Path:
    """The model as a GGUF file, F16 or (`quantised`) Q8_0."""
    import gguf

    tokens, merges = tokens_and_merges(shape.vocabulary)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in SPECIAL else normal for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    for name, value in weights(shape, seed=seed).items():
        if name.endswith("q_proj.weight"):
            value = _paired(value, shape.heads)
        elif name.endswith("k_proj.weight"):
            value = _paired(value, shape.kv_heads)
        for theirs, ours in GGUF_NAMES.items():
            name = name.replace(theirs, ours)
        if value.ndim == 1:
            writer.add_tensor(name, value.astype(np.float32))
        elif quantised:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(value.astype(np.float32), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _paired(value: NDArray[np.float16], heads: int) -> NDArray[np.float16]:
    """Rows in llama.cpp's order, where the two halves that a rotation mixes stand side by side."""
    halves = value.reshape(heads, 2, value.shape[0] // heads // 2, value.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(value.shape))


def write_folder(folder: Path, shape: Shape = TINY, *, seed: int = 0, template: str = CHAT_TEMPLATE) -> Path:
    """The model as a folder of Hugging Face: safetensors, config and a fast tokenizer."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(shape, seed=seed), folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "dtype": "float16",
        "vocab_size": shape.vocabulary,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": shape.context,
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})
    _tokenizer(shape).save(str(folder / "tokenizer.json"))
    return folder


def _tokenizer(shape: Shape):
    """The same tokenizer as in the GGUF file: digits one by one, then GPT-2's words (llama.cpp calls it smollm)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, merges = tokens_and_merges(shape.vocabulary)
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")
