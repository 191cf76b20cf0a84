"""Standardisation of a table inside the model, as a transform with its own log-det."""

from __future__ import annotations

import torch
from pyro.distributions.torch_transform import TransformModule
from torch import Tensor
from torch.distributions import constraints

from hamflow.errors import check_choice


class Whitening(TransformModule):
    r"""The affine map from standardised to data coordinates, :math:`x = \mu + S z` with S lower triangular.

    Estimated by :meth:`estimate`, kept in buffers (it moves with the model and is saved with it), not trained.

    Args:
        dim: d, the number of columns; a fresh map is the identity.
        cache_size: 0 or 1, as in ``torch.distributions.Transform``.

    Example:
        >>> import torch
        >>> from hamflow.standardize import Whitening
        >>> x = torch.randn(500, 2) * torch.tensor([1.0, 100.0])
        >>> z = Whitening(2).estimate(x, "diagonal").inv(x)
        >>> torch.allclose(z.std(0), torch.ones(2), atol=0.01)
        True
    """

    bijective = True
    domain = constraints.real_vector
    codomain = constraints.real_vector
    loc: Tensor
    scale_tril: Tensor

    def __init__(self, dim: int, *, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.register_buffer("loc", torch.zeros(dim))
        self.register_buffer("scale_tril", torch.eye(dim))

    @torch.no_grad()
    def estimate(self, x: Tensor, kind: str) -> Whitening:
        r"""Set the map from rows (n, d) and return it.

        Args:
            x: the rows, without a constant column.
            kind: ``"none"`` is the identity; ``"diagonal"`` standardises each column; ``"full"`` also removes the
                correlations, by the Cholesky factor of the Ledoit-Wolf shrunk correlation matrix.

        References:
            Ledoit and Wolf (2004), Journal of Multivariate Analysis 88, 365.
        """
        # scikit-learn takes longer to import than all the rest, so only those who fit wait for it.
        from sklearn.covariance import ledoit_wolf

        check_choice("whiten", kind, ("none", "diagonal", "full"))
        rows = x.double()
        loc, scale_tril = torch.zeros_like(rows[0]), torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        if kind != "none":
            loc, scale = rows.mean(0), rows.std(0, correction=0)
            # Shrinking correlations, not covariances, makes the result independent of the columns' units.
            if kind == "full":
                correlation = torch.as_tensor(ledoit_wolf(((rows - loc) / scale).cpu().numpy())[0]).to(rows)
                scale_tril = torch.linalg.cholesky(correlation)
            scale_tril = scale.unsqueeze(-1) * scale_tril
        self.loc.copy_(loc)
        self.scale_tril.copy_(scale_tril)
        return self

    def with_cache(self, cache_size: int = 1) -> Whitening:
        """This map with another cache size; the buffers are shared."""
        if self._cache_size == cache_size:
            return self
        twin = Whitening(len(self.loc), cache_size=cache_size)
        twin.loc, twin.scale_tril = self.loc, self.scale_tril
        return twin

    def _call(self, x: Tensor) -> Tensor:
        return self.loc + x @ self.scale_tril.mT

    def _inverse(self, y: Tensor) -> Tensor:
        flat = (y - self.loc).reshape(-1, y.shape[-1])
        return torch.linalg.solve_triangular(self.scale_tril, flat.mT, upper=False).mT.reshape(y.shape)

    def lifted(self, q: Tensor, p: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        """Positions by this map and momenta by the inverse of the transpose of S, or both back; each (*batch, d)."""
        if inverse:
            return self._inverse(q), p @ self.scale_tril
        flat = p.reshape(-1, p.shape[-1]).mT
        return self._call(q), torch.linalg.solve_triangular(self.scale_tril.mT, flat, upper=True).mT.reshape(p.shape)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log-det of S for every row, (*batch,)."""
        return self.scale_tril.diagonal().log().sum().expand(x.shape[:-1])
