"""Run a peer's model some times: this file runs under the emulated AArch64 Python, with the peer's own wheel.

`python aarch64_peer.py litert|onnxruntime MODEL COUNT`; one thread. It imports nothing of qkd.
"""

import sys
from collections.abc import Callable

import numpy as np


def litert(model: str) -> Callable[[], None]:
    """LiteRT with its default delegate, XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    interpreter.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
    return interpreter.invoke


def onnxruntime(model: str) -> Callable[[], None]:
    """ONNX Runtime's CPU provider."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    feed = {entry.name: np.zeros(entry.shape, np.float32)}
    return lambda: session.run(None, feed)


if __name__ == "__main__":
    run = {"litert": litert, "onnxruntime": onnxruntime}[sys.argv[1]](sys.argv[2])
    for _ in range(int(sys.argv[3])):
        run()
