"""The dense feed-forward block with a gate. Legend: T rows, D hidden, F inner size, E experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lite_llm.contracts.errors import Corrupt
from lite_llm.contracts.manifest import ExpertRecord
from lite_llm.experts import Bank
from lite_llm.kernels import Activation, gated, linear, linears
from lite_llm.models.architecture import Weight


@dataclass(frozen=True, kw_only=True)
class FfnConfig:
    """``down(activation(gate(x)) * up(x))``."""

    hidden_size: int
    inner_size: int
    activation: Activation = Activation.SILU
    bias: bool = False
    name: str = "mlp"

    def weights(self) -> dict[str, Weight]:
        """By name within the layer."""
        hidden, inner = self.hidden_size, self.inner_size
        shapes = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden)}
        shapes["down_proj"] = (hidden, inner)
        weights = {f"{self.name}.{part}.weight": Weight(shapes[part]) for part in shapes}
        if self.bias:
            weights |= {f"{self.name}.{part}.bias": Weight(shapes[part][:1]) for part in shapes}
        return weights

    def check_experts(self, layer: int, experts: Sequence[ExpertRecord]) -> None:
        """There are none in a dense layer."""
        if experts:
            raise Corrupt(
                f"layer {layer} is dense, but the checkpoint has {len(experts)} experts for it",
                where=str(experts[0].key),
                remedy="fetch or convert the checkpoint again",
            )

    def build(self, tensors: Mapping[str, Tensor], experts: Bank | None = None) -> GatedFfn:
        """Over the tensors of :meth:`weights`."""
        return GatedFfn(self, tensors)


class GatedFfn:
    """One feed-forward block with its weights."""

    recordable = True

    def __init__(self, config: FfnConfig, tensors: Mapping[str, Tensor]) -> None:
        def weight(part: str) -> tuple[Tensor, Tensor | None]:
            name = f"{config.name}.{part}"
            return tensors[f"{name}.weight"], tensors.get(f"{name}.bias")

        self._activation = config.activation
        self._inputs, self._down = (weight("gate_proj"), weight("up_proj")), weight("down_proj")

    def __call__(self, x_TD: Tensor, mask_TE: Tensor | None = None) -> Tensor:
        """``[T, D]``."""
        gate_TF, up_TF = linears(x_TD, self._inputs)
        return linear(gated(gate_TF, up_TF, self._activation), *self._down)
