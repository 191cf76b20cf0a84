"""The implicit midpoint rule, symplectic for every Hamiltonian."""

from __future__ import annotations

from hamflow.energies.hamiltonian import Hamiltonian
from hamflow.steps.gauss import GaussLegendre


class ImplicitMidpoint(GaussLegendre):
    r"""The implicit midpoint rule for any Hamiltonian, separable or not, order 2,

    .. math:: z' = z + \Delta t\, \Omega \nabla H\!\left(\tfrac{z + z'}{2}, t + \tfrac{\Delta t}{2}\right),
              \qquad z = (q, p).

    It is :class:`GaussLegendre` with one stage, solved and differentiated as there, with two things more: a long step
    is solved by Newton's method, and H is evaluated at one time only, so its energies may be layered.

    Args:
        hamiltonian: any :class:`Hamiltonian`.
        tolerance: the largest relative residual; by default 1e-13 in float64 and 1e-6 in float32.
        max_iterations: the number of iterations allowed.

    Raises:
        InputError: an argument is of the wrong kind.
        SolveError: (when stepping) the residual stays above the tolerance or is not finite.

    References:
        Hairer, Lubich and Wanner (2006), Geometric Numerical Integration, theorem VI.3.5.

    Example:
        >>> import torch, hamflow as hf
        >>> H = hf.FunctionHamiltonian(lambda q, p: 0.5 * ((1 + q**2) * p**2).sum(-1))
        >>> step = hf.ImplicitMidpoint(H)
        >>> q, p = step(torch.tensor([[1.0]]), torch.tensor([[0.5]]), 0.0, 0.1)
        >>> step.residual <= 1e-6
        True
    """

    def __init__(self, hamiltonian: Hamiltonian, *, tolerance: float | None = None, max_iterations: int = 50) -> None:
        super().__init__(hamiltonian, 1, tolerance=tolerance, max_iterations=max_iterations)
