"""llama.cpp, through the functions of its C interface: `llama_decode` in the plainest loop.

The GGUF file is written in float32 and quantised by llama.cpp itself, as its own tool does it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference.contenders import Array, Stepper, made

NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def place(model: Path, work: Path, precision: str) -> Path:
    return work / f"llama.cpp-{precision}.gguf"


def _renamed(name: str) -> str:
    """Our name of a parameter in GGUF's words."""
    for ours, theirs in (
        ("wte.", "token_embd."),
        ("wpe.", "position_embd."),
        ("ln_f.", "output_norm."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    _, layer, rest = name.split(".", 2)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[module]}.{kind}"


def _write(model: Path, path: Path) -> None:
    """The model as a GGUF file of float32, without a vocabulary: it is given token ids."""
    import gguf

    from gpt2lab import weights

    config, params, _ = weights.load(model)
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config.n_vocab)
    for name, array in params.items():
        turned = array.ndim == 2 and name.startswith("h.")
        writer.add_tensor(_renamed(name), np.ascontiguousarray(array.T) if turned else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def prepare(model: Path, place: Path, precision: str) -> None:
    whole = place.with_name("llama.cpp-F32.gguf")
    if not whole.exists():
        part = made(whole)
        _write(model, part)
        part.rename(whole)
    if not place.exists():
        lib, part = library(), made(place)
        settings = lib.llama_model_quantize_default_params()
        settings.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{precision}")
        if lib.llama_model_quantize(bytes(whole), bytes(part), ctypes.byref(settings)):
            raise RuntimeError(f"llama.cpp did not quantise to {precision}")
        part.rename(place)


def library() -> Any:
    """llama.cpp, ready and silent."""
    import llama_cpp

    llama_cpp.llama_log_set(_silence(llama_cpp), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


_KEPT: list[Any] = []  # a callback lives as long as C may call it


def _silence(lib: Any) -> Any:
    _KEPT.append(lib.llama_log_callback(lambda level, text, data: None))
    return _KEPT[-1]


def load(place: Path, precision: str, threads: int) -> Stepper:
    lib = library()
    settings = lib.llama_model_default_params()
    loaded = lib.llama_model_load_from_file(bytes(place), settings)
    if not loaded:
        raise RuntimeError(f"llama.cpp did not load the {precision} file")
    return LlamaCpp(lib, loaded, threads)


class LlamaCpp(Stepper):
    def __init__(self, lib: Any, model: Any, threads: int) -> None:
        self.lib, self.model, self.threads = lib, model, threads
        self.vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        self.context: Any = None
        self.batch: Any = None
        self.shape, self.length = (0, 0), 0

    def start(self, rows: int, length: int) -> None:
        lib, self.length = self.lib, 0
        if (rows, length) == self.shape:
            lib.llama_memory_clear(lib.llama_get_memory(self.context), False)
            return
        if self.context:
            lib.llama_batch_free(self.batch)
            lib.llama_free(self.context)
        most = rows * length
        settings = lib.llama_context_default_params()
        settings.n_ctx = rows * -(-length // 256) * 256
        settings.n_batch, settings.n_ubatch = max(512, most), 512
        settings.n_seq_max = rows
        settings.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED  # up to twice as fast at 512
        settings.n_threads = settings.n_threads_batch = self.threads
        settings.no_perf = True
        self.context = lib.llama_init_from_model(self.model, settings)
        self.batch = lib.llama_batch_init(most, 0, 1)
        self.shape = (rows, length)

    def step(self, tokens: Sequence[Sequence[int]]) -> Array:
        lib, batch, i = self.lib, self.batch, 0
        for row, new in enumerate(tokens):
            for offset, token in enumerate(new):
                batch.token[i], batch.pos[i] = token, self.length + offset
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
                batch.logits[i] = offset == len(new) - 1
                i += 1
        batch.n_tokens = i
        if lib.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        self.length += len(tokens[0])
        start = lib.llama_get_logits(self.context)  # of the rows that asked, one after the other
        return np.ctypeslib.as_array(start, (len(tokens), self.vocab))  # [N, V]
