"""OpenVINO: the graph that Optimum exports, a stateful model with the cache inside, written out.

Its CPU plugin finds its fused attention in it (ReadValue, Gather by `beam_idx`, Concat, attention).
Beside Optimum's own export the logits were the same bits and the speed was never lower (prefill
1.35 times as high: the head is asked for the last position only). int8 is NNCF's compression of the
weights. Keys and values are kept in 8 bits, which is the plugin's own choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference.contenders import Array, Stepper, made

HINTS = {"float32": "f32", "bfloat16": "bf16"}


def place(model: Path, work: Path, precision: str) -> Path:
    """bfloat16 is made of float32 when the model is loaded."""
    return work / f"openvino-{'int8' if precision == 'int8' else 'float32'}"


def graph(config: Any, params: Any) -> Any:
    """GPT-2 in OpenVINO's operations. B rows, T new tokens, S all tokens, E width, V vocabulary."""
    import openvino as ov
    from openvino import opset13 as op

    heads, width, embed = config.n_head, config.head_width, config.n_embd
    ids = op.parameter([-1, -1], np.int64)  # [B, T]
    places = op.parameter([-1], np.int64)  # [T]
    order = op.parameter([-1], np.int32)  # [B]
    for node, name in ((ids, "input_ids"), (places, "position_ids"), (order, "beam_idx")):
        node.output(0).set_names({name})
    sinks: list[Any] = []

    def constant(value: Any, dtype: Any = np.float32) -> Any:
        return op.constant(np.asarray(value, dtype, order="C"))

    def integers(*values: int) -> Any:
        return constant(values, np.int64)

    def norm(x: Any, name: str) -> Any:
        x = op.mvn(x, integers(-1), True, config.layer_norm_epsilon, "inside_sqrt")
        x = op.multiply(x, constant(params[f"{name}.weight"]))
        return op.add(x, constant(params[f"{name}.bias"]))

    def linear(x: Any, name: str) -> Any:
        x = op.matmul(x, constant(params[f"{name}.weight"].T), False, True)
        return op.add(x, constant(params[f"{name}.bias"]))

    def split(x: Any) -> Any:
        x = op.reshape(x, integers(0, 0, heads, width), True)  # [B, T, H, D]
        return op.transpose(x, integers(0, 2, 1, 3))  # [B, H, T, D]

    def joined(new: Any, name: str) -> Any:
        """The past and the new: [B, H, S, D]."""
        rows = op.gather(op.shape_of(ids), integers(0), constant(0, np.int64))
        empty = op.concat([rows, integers(heads, 0, width)], 0)
        past = op.read_value(
            op.broadcast(constant(0), empty),
            name,
            np.float32,
            ov.PartialShape([-1, heads, -1, width]),
        )
        past = op.gather(past, order, constant(0, np.int64))
        whole = op.concat([past, new], 2)
        sinks.append(op.assign(whole, name))
        return whole

    table = constant(params["wte.weight"])
    x = op.gather(table, ids, constant(0, np.int64))  # [B, T, E]
    x = op.add(x, op.gather(constant(params["wpe.weight"]), places, constant(0, np.int64)))
    last = op.reduce_max(places, integers(0), False)
    keys_at = op.range(
        constant(0, np.int64), op.add(last, constant(1, np.int64)), constant(1, np.int64), "i64"
    )
    seen = op.less_equal(keys_at, op.unsqueeze(places, integers(1)))  # [T, S]
    mask = op.select(seen, constant(0), constant(np.finfo(np.float32).min))
    mask = op.unsqueeze(mask, integers(0, 1))  # [1, 1, T, S]
    for layer in range(config.n_layer):
        h = f"h.{layer}"
        qkv = op.split(linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn"), constant(2, np.int64), 3)
        q, k, v = (split(qkv.output(i)) for i in range(3))
        k, v = joined(k, f"past.{layer}.key"), joined(v, f"past.{layer}.value")
        a = op.scaled_dot_product_attention(q, k, v, mask)
        a = op.reshape(op.transpose(a, integers(0, 2, 1, 3)), integers(0, 0, embed), True)
        x = op.add(x, linear(a, f"{h}.attn.c_proj"))
        m = op.gelu(linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc"), "tanh")
        x = op.add(x, linear(m, f"{h}.mlp.c_proj"))
    x = op.gather(x, constant(-1, np.int64), constant(1, np.int64))  # [B, E]
    logits = op.matmul(norm(x, "ln_f"), table, False, True)  # [B, V]
    return ov.Model([op.result(logits)], sinks, [ids, places, order], "gpt2")


def prepare(model: Path, place: Path, precision: str) -> None:
    import openvino as ov

    from gpt2lab import weights

    if place.exists():
        return
    config, params, _ = weights.load(model)
    made_graph = graph(config, params)
    if precision == "int8":
        import nncf

        made_graph = nncf.compress_weights(made_graph, mode=nncf.CompressWeightsMode.INT8_ASYM)
    part = made(place)
    part.mkdir(exist_ok=True)
    ov.save_model(made_graph, part / "model.xml", compress_to_fp16=False)
    part.rename(place)


def load(place: Path, precision: str, threads: int) -> Stepper:
    import openvino as ov

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": "NO",  # on a shared machine up to 5 % faster, never slower
    }
    if precision in HINTS:
        settings["INFERENCE_PRECISION_HINT"] = HINTS[precision]
    else:  # activations are quantised in groups: at 128 it is up to 18 % faster than at its 32
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "128"
    core = ov.Core()
    return OpenVino(core.compile_model(core.read_model(place / "model.xml"), "CPU", settings))


class OpenVino(Stepper):
    def __init__(self, compiled: Any) -> None:
        self.request = compiled.create_infer_request()
        self.length = 0

    def start(self, rows: int, length: int) -> None:
        self.request.reset_state()
        self.length = 0

    def step(self, tokens: Sequence[Sequence[int]]) -> Array:
        new = np.array(tokens, np.int64)  # [N, T]
        inputs = {
            "input_ids": new,
            "position_ids": np.arange(self.length, self.length + new.shape[1]),
            "beam_idx": np.arange(len(new), dtype=np.int32),
        }
        self.length += new.shape[1]
        outputs = self.request.infer(inputs, share_inputs=True, share_outputs=True)
        logits: Array = outputs[0]  # [N, V]
        return logits
