"""Golden vectors: real inputs with the outputs that the reference computes for them, as C and as NumPy files."""

import io

import numpy as np
from numpy.typing import NDArray

from qkd.bundle.rendering import render
from qkd.errors import RecipeError
from qkd.graph.graph import QuantGraph
from qkd.graph.reference import run_in_batches

CODES_PER_LINE = 24


def golden_files(name: str, graph: QuantGraph, inputs: NDArray[np.int8]) -> dict[str, bytes]:
    """Run the reference and write inputs and outputs.

    Parameters
    ----------
    name : str
        Prefix of the C symbols.
    graph : QuantGraph
    inputs : int8 array of shape (N, *input shape without its leading 1)
        A few samples as codes; they lie in flash when the self-test runs on a board.

    Returns
    -------
    dict of str to bytes
        File name to content: `<name>_golden.h`, `<name>_golden.c`, `inputs.npy`, `outputs.npy`.

    Raises
    ------
    RecipeError
        When there are no inputs: a self-test of nothing proves nothing.
    """
    if len(inputs) == 0:
        raise RecipeError(f"{name!r} needs at least one golden input; give the bundle a few test samples")
    value = graph.values[graph.outputs[0]]
    outputs = run_in_batches(graph, inputs).astype(value.dtype)
    facts = {
        "name": name,
        "NAME": name.upper(),
        "sha256": graph.sha256(),
        "output_type": f"{value.dtype}_t",
        "inputs": [_lines(sample) for sample in inputs],
        "outputs": [_lines(sample) for sample in outputs],
    }
    return {
        f"{name}_golden.h": render("golden.h.j2", **facts).encode(),
        f"{name}_golden.c": render("golden.c.j2", **facts).encode(),
        "inputs.npy": _npy(inputs),
        "outputs.npy": _npy(outputs),
    }


def _lines(sample: NDArray[np.int8] | NDArray[np.int32]) -> list[str]:
    texts = [str(code) for code in sample.reshape(-1).tolist()]
    return [", ".join(texts[i : i + CODES_PER_LINE]) for i in range(0, len(texts), CODES_PER_LINE)]


def _npy(array: NDArray[np.int8] | NDArray[np.int32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
