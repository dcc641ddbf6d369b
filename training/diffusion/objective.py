"""What the denoiser is asked to predict, and the identities between the answers.

With x_t = a x0 + s eps and v = a eps - s x0 (MVDiffusion++ §4.2; Salimans and Ho 2022): x0 = a x_t - s v, eps = s x_t + a v.
"""

from torch import Tensor

PREDICTIONS = ("eps", "v")


def noised(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_t."""
    return alpha * x0 + sigma * noise


def target_of(prediction: str, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The tensor a perfect denoiser returns. Raises ValueError for an unknown prediction type."""
    if prediction == "eps":
        return noise
    if prediction == "v":
        return alpha * noise - sigma * x0
    raise ValueError(f"unknown prediction '{prediction}'; known: {', '.join(PREDICTIONS)}")


def x0_from(prediction: str, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The clean sample that a prediction implies; for eps undefined where alpha is 0."""
    return (x_t - sigma * output) / alpha if prediction == "eps" else alpha * x_t - sigma * output


def noise_from(prediction: str, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise that a prediction implies."""
    return output if prediction == "eps" else sigma * x_t + alpha * output
