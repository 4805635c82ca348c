"""Response-based knowledge: the teacher's class probabilities, softened by a temperature.

Hinton, Vinyals, Dean 2015 (arXiv 1503.02531). With p = softmax(z / T), the student learns

    T² · KL(p_teacher ‖ p_student),  whose gradient to the student's logits is T · (p_student − p_teacher) / N.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax


@dataclass(frozen=True)
class ResponseLoss:
    """How labels and the teacher's response are joined.

    "sum" is cross-entropy + weight · KL; "convex" is (1 − weight) · cross-entropy + weight · KL. Averaging the KL over
    "elements", samples and classes alike, as torch 0.3 did, divides its weight by the number of classes.
    """

    temperature: float
    weight: float = 1.0
    form: Literal["sum", "convex"] = "sum"
    averaging: Literal["batch", "elements"] = "batch"

    def __call__(self, logits_NK: Tensor, teacher_NK: Tensor, labels_N: Tensor) -> Tensor:
        """The loss of the network behind `logits_NK`; nothing flows back into `teacher_NK`."""
        labels_share = 1.0 if self.form == "sum" else 1.0 - self.weight
        soft = softened_kl(logits_NK, teacher_NK.detach(), self.temperature)
        weight = self.weight if self.averaging == "batch" else self.weight / logits_NK.shape[1]
        return labels_share * cross_entropy(logits_NK, labels_N) + weight * soft


def softened_kl(logits_NK: Tensor, target_NK: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(target / T) ‖ softmax(logits / T)), the mean over the N samples.

    Parameters
    ----------
    logits_NK : Tensor of shape (N, K)
        Of the network that learns.
    target_NK : Tensor of shape (N, K)
        Of the network it learns from.
    temperature : float
        Above 1 it softens both; T² keeps the gradient's size.
    """
    log_p, log_target = (log_softmax(_at_least_float32(z) / temperature, dim=1) for z in (logits_NK, target_NK))
    return temperature**2 * kl_div(log_p, log_target, reduction="batchmean", log_target=True)


def full_cross_entropy(logits_NK: Tensor, target_NK: Tensor) -> Tensor:
    """H(softmax(target), softmax(logits)), the mean over the N samples: nothing is softened (Apprentice's γ term)."""
    return cross_entropy(_at_least_float32(logits_NK), softmax(_at_least_float32(target_NK), dim=1))


def _at_least_float32(logits_NK: Tensor) -> Tensor:
    """Autocast gives bfloat16, in which a KL between networks that nearly agree is all rounding."""
    return logits_NK.to(torch.promote_types(logits_NK.dtype, torch.float32))
