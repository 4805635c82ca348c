"""From a float network to the ordered list of operators that a QuantGraph can hold, fused and checked.

torch.fx traces the module; each node either starts an operator (convolution, linear, add, pool, flatten), joins the one
before it (batch norm, ReLU, padding), passes through (dropout, identity) or ends in an UnsupportedOpError.
"""

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
import torch.fx
from torch import nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from qkd.errors import UnsupportedOpError
from qkd.student.traced import INPUT, Kind, Norm, Padding, Pair, TracedOp, unsupported


def trace(model: nn.Module, input_shape: tuple[int, int, int]) -> tuple[TracedOp, ...]:
    """List the operators of a float network in execution order; the last one gives its output.

    Parameters
    ----------
    model : nn.Module
        Takes one image batch (N, C, H, W); left as it was, the operators refer to a copy.
    input_shape : (H, W, C)

    Raises
    ------
    UnsupportedOpError
        Names the node that has no integer form and says what is allowed.
    """
    model = copy.deepcopy(model).eval()
    height, width, channels = input_shape
    image = torch.zeros(1, channels, height, width)
    try:
        model(image)
        graph = torch.fx.symbolic_trace(model)
    except Exception as error:
        # whatever the model's own Python raises on such an image or on symbols
        raise UnsupportedOpError(
            f"{type(model).__name__} cannot be traced: {error}; its forward must take images of "
            f"{input_shape} (H, W, C) and not depend on their values"
        ) from error
    ShapeProp(graph).propagate(image)
    return _Fuser(graph).operators()


class _Fuser:
    """Walks the nodes of a traced module once and collects operators."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        self.graph = graph
        self.ops: dict[str, TracedOp] = {}
        self.names: dict[torch.fx.Node, str] = {}
        self.pads: dict[torch.fx.Node, tuple[int, int, int, int]] = {}
        self.shared: set[str] = set()  # outputs that several nodes read: nothing may be fused into them

    def operators(self) -> tuple[TracedOp, ...]:
        """Visit every node that yields a tensor."""
        for node in self.graph.graph.nodes:
            if node.op == "output":
                self._end(node)
            elif "tensor_meta" in node.meta:  # sizes and their arithmetic have none
                self._visit(node)
        return tuple(self.ops.values())

    def _visit(self, node: torch.fx.Node) -> None:
        if node.op == "placeholder":
            return self._enter(node)
        if node.op == "call_module":
            module = self.graph.get_submodule(str(node.target))
            found = next((handle for kind, handle in _MODULES if isinstance(module, kind)), None)
            if found is not None:
                return found(self, node, module)
        elif node.target in _TARGETS:
            handle, make = _TARGETS[node.target]
            return handle(self, node, make(*node.args[1:], **node.kwargs))
        raise unsupported(node, "the operator is not known")

    def _enter(self, node: torch.fx.Node) -> None:
        if self.names:
            raise unsupported(node, "it is a second input")
        self._name(node, INPUT)

    def _end(self, node: torch.fx.Node) -> None:
        last = self._source(node, node.args[0])
        if last not in self.ops or last != next(reversed(self.ops)):
            raise unsupported(node, "the output must be what the last operator computes")
        if self.ops[last].flattened not in (None, (*self.ops[last].shape, 1, 1)):
            raise unsupported(node, "an image cannot be the output once it is flattened")

    def _weighted(self, node: torch.fx.Node, module: nn.Conv2d | nn.Linear) -> None:
        source = self._source(node, node.args[0], padded=True)
        if isinstance(module, nn.Linear):
            if len(_shape(node)) != 1:
                raise unsupported(node, "a linear layer needs flattened input (N, K)")
            self._start(node, "linear", (source,), module=module)
            return
        kind = self._conv_kind(node, module)
        if isinstance(module.padding, str):
            raise unsupported(node, f"padding {module.padding!r}; write it as numbers or pad before the convolution")
        own = (module.padding[1], module.padding[1], module.padding[0], module.padding[0])
        before = self.pads.get(cast(torch.fx.Node, node.args[0]), (0, 0, 0, 0))
        padding = cast(Padding, tuple(a + b for a, b in zip(own, before, strict=True)))
        self._start(node, kind, (source,), module=module, padding=padding, stride=_pair(module.stride))

    @staticmethod
    def _conv_kind(node: torch.fx.Node, module: nn.Conv2d) -> Kind:
        if _pair(module.dilation) != (1, 1):
            raise unsupported(node, f"dilation {module.dilation}")
        if module.padding_mode != "zeros":
            raise unsupported(node, f"padding mode {module.padding_mode!r}")
        if module.groups == 1:
            return "conv"
        if module.groups == module.in_channels == module.out_channels:
            return "depthwise"
        raise unsupported(node, f"{module.groups} groups for {module.in_channels} → {module.out_channels} channels")

    def _norm(self, node: torch.fx.Node, module: Norm) -> None:
        name = self._source(node, node.args[0])
        op = self.ops.get(name)
        if op is None or op.module is None or op.norm or op.rectified or name in self.shared:
            raise unsupported(node, "batch norm must follow a convolution or linear layer that nothing else reads")
        if not (module.affine and module.track_running_stats):
            raise unsupported(node, "batch norm without learned scale or without running statistics")
        self._join(node, replace(op, norm=module))

    def _relu(self, node: torch.fx.Node, _: object) -> None:
        name = self._source(node, node.args[0])
        op = self.ops.get(name)
        if op is not None and op.rectified:
            return self._name(node, name)
        if op is None or op.kind not in ("conv", "depthwise", "linear", "add") or name in self.shared:
            raise unsupported(node, "ReLU must follow a convolution, linear layer or add that nothing else reads")
        self._join(node, replace(op, rectified=True))

    def _add(self, node: torch.fx.Node, options: Mapping[str, object]) -> None:
        sources = tuple(self._source(node, operand) for operand in node.args[:2])
        if options or len({_shape(operand) for operand in node.all_input_nodes}) != 1 or INPUT in sources:
            raise unsupported(node, "add takes two computed activations of one shape")
        first, second = (self.ops[name] for name in sources)
        if first.flattened != second.flattened:
            raise unsupported(node, "one operand is a flattened image, the other is not")
        self._start(node, "add", sources, flattened=first.flattened)

    def _average(self, node: torch.fx.Node, module: nn.AvgPool2d | nn.AdaptiveAvgPool2d) -> None:
        size = _shape(node.all_input_nodes[0])[1:]
        if isinstance(module, nn.AdaptiveAvgPool2d):
            if module.output_size not in (1, (1, 1)):
                raise unsupported(node, f"adaptive pool to {module.output_size}; only to 1")
            return self._pool(node, "average_pool", (size[0], size[1]), (1, 1))
        if _pair(module.padding) != (0, 0) or module.ceil_mode or module.divisor_override is not None:
            raise unsupported(node, "average pool with padding, ceil mode or a divisor of its own")
        self._pool(node, "average_pool", _pair(module.kernel_size), _pair(module.stride))

    def _maximum(self, node: torch.fx.Node, module: nn.MaxPool2d) -> None:
        plain = _pair(module.padding) == (0, 0) and _pair(module.dilation) == (1, 1)
        if not plain or module.ceil_mode or module.return_indices:
            raise unsupported(node, "max pool with padding, dilation, ceil mode or indices")
        self._pool(node, "max_pool", _pair(module.kernel_size), _pair(module.stride))

    def _pool(self, node: torch.fx.Node, kind: Kind, kernel: Pair, stride: Pair) -> None:
        source = self._source(node, node.args[0])
        self._start(node, kind, (source,), kernel=kernel, stride=stride, rectified=self._rectified(source))

    def _mean(self, node: torch.fx.Node, options: Mapping[str, Any]) -> None:
        before = _shape(node.all_input_nodes[0])
        dims = options.get("dim", ())
        if len(before) != 3 or {d % 4 for d in (dims if isinstance(dims, tuple | list) else (dims,))} != {2, 3}:
            raise unsupported(node, "mean must be over height and width, dimensions (2, 3)")
        source = self._source(node, node.args[0])
        pooled = replace(
            self._describe(node, "average_pool", (source,)), shape=(before[0], 1, 1), kernel=(before[1], before[2]),
            rectified=self._rectified(source),
        )  # fmt: skip
        self._join(node, pooled)
        if len(_shape(node)) == 1:
            self._start(node, "flatten", (pooled.name,), rectified=pooled.rectified, flattened=(before[0], 1, 1))

    def _flatten(self, node: torch.fx.Node, _: object) -> None:
        before, after = _shape(node.all_input_nodes[0]), _shape(node)
        source = self._source(node, node.args[0])
        if before == after:
            return self._name(node, source)
        if len(before) != 3 or len(after) != 1:
            raise unsupported(node, f"reshape from (N, {before}) to (N, {after}); only to (N, K)")
        image = (before[0], before[1], before[2])
        self._start(node, "flatten", (source,), rectified=self._rectified(source), flattened=image)

    def _pad(self, node: torch.fx.Node, options: Mapping[str, Any]) -> None:
        name = self._source(node, node.args[0], padded=True)
        sides = tuple(options.get("pad", ()))
        zeros = options.get("mode", "constant") == "constant" and not options.get("value")
        if not zeros or len(sides) not in (2, 4) or min(sides) < 0:
            raise unsupported(node, f"padding {sides}; only with zeros, of height and width, and not negative")
        before = self.pads.get(cast(torch.fx.Node, node.args[0]), (0, 0, 0, 0))
        sides = (*sides, *(0,) * (4 - len(sides)))
        self._name(node, name)
        self.pads[node] = cast(Padding, tuple(a + b for a, b in zip(before, sides, strict=True)))

    def _zero_pad(self, node: torch.fx.Node, module: nn.ZeroPad2d) -> None:
        self._pad(node, {"pad": module.padding})

    def _pass(self, node: torch.fx.Node, _: object) -> None:
        self._name(node, self._source(node, node.args[0]))

    def _rectified(self, source: str) -> bool:
        return source in self.ops and self.ops[source].rectified

    def _source(self, node: torch.fx.Node, operand: object, padded: bool = False) -> str:
        """The name of an operand, which must be an activation, and unpadded unless the reader can pad."""
        if not isinstance(operand, torch.fx.Node) or operand not in self.names:
            raise unsupported(node, f"its operand {operand!r} is not an activation")
        if operand in self.pads and not padded:
            raise unsupported(node, "padding is only possible before a convolution")
        return self.names[operand]

    def _name(self, node: torch.fx.Node, name: str) -> None:
        """Let `node` stand for the output of operator `name`."""
        self.names[node] = name
        if len(node.users) > 1:
            self.shared.add(name)

    def _describe(self, node: torch.fx.Node, kind: Kind, sources: tuple[str, ...]) -> TracedOp:
        origin = str(node.target) if node.op == "call_module" else node.name
        return TracedOp(kind, f"{_SHORT.get(kind, kind)}_{len(self.ops)}", sources, _shape(node), origin)

    def _start(self, node: torch.fx.Node, kind: Kind, sources: tuple[str, ...], **details: Any) -> None:
        self._join(node, replace(self._describe(node, kind, sources), **details))

    def _join(self, node: torch.fx.Node, op: TracedOp) -> None:
        self.ops[op.name] = op
        self._name(node, op.name)


def _shape(node: torch.fx.Node) -> tuple[int, ...]:
    """Shape without the batch."""
    return tuple(node.meta["tensor_meta"].shape[1:])


def _pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


_SHORT: Mapping[str, str] = {
    "depthwise": "dw",
    "linear": "fc",
    "average_pool": "pool",
    "max_pool": "max",
    "flatten": "reshape",
}

_MODULES: Sequence[tuple[type[nn.Module], Callable[[_Fuser, torch.fx.Node, Any], None]]] = (
    (nn.Conv2d, _Fuser._weighted),
    (nn.Linear, _Fuser._weighted),
    (nn.BatchNorm2d, _Fuser._norm),
    (nn.BatchNorm1d, _Fuser._norm),
    (nn.ReLU, _Fuser._relu),
    (nn.AvgPool2d, _Fuser._average),
    (nn.AdaptiveAvgPool2d, _Fuser._average),
    (nn.MaxPool2d, _Fuser._maximum),
    (nn.ZeroPad2d, _Fuser._zero_pad),
    (nn.Flatten, _Fuser._flatten),
    (nn.Dropout, _Fuser._pass),
    (nn.Dropout2d, _Fuser._pass),
    (nn.Identity, _Fuser._pass),
)


def _ignored(*_: object, **__: object) -> None:
    """Arguments that do not matter because the shapes say it all."""


_TARGETS: Mapping[Any, tuple[Callable[[_Fuser, torch.fx.Node, Any], None], Callable[..., Any]]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), (_Fuser._add, lambda _, **kw: kw)),
    **dict.fromkeys((functional.relu, torch.relu, "relu", "relu_"), (_Fuser._relu, _ignored)),
    **dict.fromkeys((torch.mean, "mean"), (_Fuser._mean, lambda dim=(), keepdim=False: {"dim": dim})),
    **dict.fromkeys((torch.flatten, torch.reshape, "flatten", "view", "reshape"), (_Fuser._flatten, _ignored)),
    functional.pad: (_Fuser._pad, lambda pad, mode="constant", value=None: {"pad": pad, "mode": mode, "value": value}),
    functional.dropout: (_Fuser._pass, _ignored),
    functional.avg_pool2d: (_Fuser._average, nn.AvgPool2d),
    functional.adaptive_avg_pool2d: (_Fuser._average, nn.AdaptiveAvgPool2d),
    functional.max_pool2d: (_Fuser._maximum, nn.MaxPool2d),
}
