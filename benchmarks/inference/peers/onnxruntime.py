"""ONNX Runtime: the graph that its GenAI tools export, written out with the fused operators.

Keys and values stand in buffers that the attention writes to in place. int8 is its own quantiser's
8-bit weights, with activations quantised on the way (`accuracy_level` 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference.contenders import Array, Stepper, made

MS = "com.microsoft"


def place(model: Path, work: Path, precision: str) -> Path:
    return work / f"onnxruntime-{precision}.onnx"


def graph(config: Any, params: Any) -> Any:
    """GPT-2 in ONNX's and Microsoft's operators. B rows, T new tokens, E width, V vocabulary."""
    from onnx import TensorProto, helper, numpy_helper

    heads, width = config.n_head, config.head_width
    nodes: list[Any] = []
    constants: dict[str, Any] = {}

    def node(kind: str, inputs: Sequence[str], count: int = 1, **attributes: Any) -> Any:
        outputs = [f"n{len(nodes)}.{i}" for i in range(count)]
        nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs if count > 1 else outputs[0]

    def constant(name: str, value: Any) -> str:
        constants.setdefault(name, numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def parameter(name: str) -> str:
        return constant(name, params[name])

    def norm(x: str, name: str) -> str:
        inputs = [x, parameter(f"{name}.weight"), parameter(f"{name}.bias")]
        made: str = node("LayerNormalization", inputs, epsilon=config.layer_norm_epsilon)
        return made

    def product(x: str, name: str) -> str:
        made: str = node("MatMul", [x, parameter(f"{name}.weight")])
        return made

    def linear(x: str, name: str) -> str:
        made: str = node("Add", [product(x, name), parameter(f"{name}.bias")])
        return made

    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "T"]),
        helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["T"]),
        helper.make_tensor_value_info("last", TensorProto.INT32, ["B"]),
        helper.make_tensor_value_info("total", TensorProto.INT32, []),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", config.n_vocab])]
    for layer in range(config.n_layer):
        for kind in ("key", "value"):
            shape = ["B", heads, "C", width]
            for end, name in ((inputs, "past"), (outputs, "present")):
                named = f"{name}.{layer}.{kind}"
                end.append(helper.make_tensor_value_info(named, TensorProto.FLOAT, shape))
    x = node("Gather", [parameter("wte.weight"), "input_ids"])  # [B, T, E]
    x = node("Add", [x, node("Gather", [parameter("wpe.weight"), "position_ids"])])
    for layer in range(config.n_layer):
        h = f"h.{layer}"
        qkv = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn")
        past = [f"past.{layer}.key", f"past.{layer}.value"]
        a = f"attention.{layer}"
        nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [qkv, "", "", *past, "last", "total"],
                [a, f"present.{layer}.key", f"present.{layer}.value"],
                domain=MS,
                num_heads=heads,
                kv_num_heads=heads,
            )
        )
        x = node("Add", [x, linear(a, f"{h}.attn.c_proj")])
        m = product(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")
        m = node("FastGelu", [m, parameter(f"{h}.mlp.c_fc.bias")], domain=MS)
        x = node("Add", [x, linear(m, f"{h}.mlp.c_proj")])
    x = node("Gather", [x, constant("end", np.array(-1))], axis=1)  # [B, E]
    head = constant("head.weight", params["wte.weight"].T)
    nodes.append(helper.make_node("MatMul", [norm(x, "ln_f"), head], ["logits"]))
    whole = helper.make_graph(nodes, "gpt2", inputs, outputs, list(constants.values()))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)]
    return helper.make_model(whole, opset_imports=opsets, ir_version=10)


def prepare(model: Path, place: Path, precision: str) -> None:
    import onnx

    from gpt2lab import weights

    if place.exists():
        return
    config, params, _ = weights.load(model)
    made_graph = graph(config, params)
    if precision == "int8":
        from onnxruntime.quantization import matmul_nbits_quantizer

        quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(
            made_graph, bits=8, block_size=128, is_symmetric=True, accuracy_level=4
        )
        quantizer.process()
        made_graph = quantizer.model.model
    part = made(place)
    onnx.save(made_graph, part)
    part.rename(place)


def load(place: Path, precision: str, threads: int) -> Stepper:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(place, settings, providers=["CPUExecutionProvider"])
    return OnnxRuntime(session)


class OnnxRuntime(Stepper):
    def __init__(self, session: Any) -> None:
        self.session, self.length = session, 0
        self.binding = session.io_binding()

    def start(self, rows: int, length: int) -> None:
        from onnxruntime import OrtValue

        self.length, self.binding = 0, self.session.io_binding()
        for entry in self.session.get_inputs():
            if entry.name.startswith("past."):
                shape = (rows, entry.shape[1], length, entry.shape[3])  # [B, H, C, D]
                buffer = OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
                self.binding.bind_ortvalue_input(entry.name, buffer)
                self.binding.bind_ortvalue_output("present" + entry.name[4:], buffer)
        self.binding.bind_output("logits", "cpu")

    def step(self, tokens: Sequence[Sequence[int]]) -> Array:
        new, bind = np.array(tokens, np.int64), self.binding.bind_cpu_input  # [N, T]
        places = np.arange(self.length, self.length + new.shape[1])
        self.length += new.shape[1]
        bind("input_ids", new)
        bind("position_ids", places)
        bind("last", np.full(len(new), self.length - 1, np.int32))
        bind("total", np.array(self.length, np.int32))
        self.session.run_with_iobinding(self.binding)
        logits: Array = self.binding.get_outputs()[-1].numpy()  # bound last
        return logits  # [N, V]
