"""Mixing weights that fit the untrained student best, in closed form.

Shape suffixes as in ``laid/losses/head_mixing.py``.
"""

import torch
from torch import Tensor

from laid.losses.head_mixing import as_pairs


class LeastSquares:
    """Gathers batches for the minimum over w of ``sum |x_s,i - sum_j w_ij x_t,j|^2``.

    Real weights: one problem over all tokens and numbers of a head. Complex ones: one a rotary
    pair. Only the normal equations are kept, whose size does not grow with the batches.
    """

    def __init__(self, is_complex: bool, ridge: float = 1e-3):
        """
        Args:
            is_complex: for complex weights.
            ridge: added to the diagonal, as a share of its mean, for heads that are alike.
        """
        self.is_complex = is_complex
        self.ridge = ridge
        self._gram: Tensor | float = 0.0
        self._cross: Tensor | float = 0.0

    @torch.no_grad()
    def add(self, x_BLSD: Tensor, x_BLTD: Tensor, mask_BL: Tensor) -> None:
        """One batch: the student's and the teacher's queries (or keys); padding does not count."""
        student, teacher = x_BLSD[mask_BL.bool()], x_BLTD[mask_BL.bool()]
        if self.is_complex:
            student, teacher = as_pairs(student), as_pairs(teacher)
            self._gram += torch.einsum("nuf,ntf->fut", teacher.conj(), teacher)
            self._cross += torch.einsum("ntf,nsf->fts", teacher.conj(), student)
        else:
            student, teacher = student.double(), teacher.double()
            self._gram += torch.einsum("nud,ntd->ut", teacher, teacher)[None]
            self._cross += torch.einsum("ntd,nsd->ts", teacher, student)[None]

    def solution(self) -> Tensor:
        """``w_ST``, or complex ``w_STF``, of the smallest error over all batches."""
        assert isinstance(self._gram, Tensor)
        diagonal = self._gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)
        eye = torch.eye(self._gram.shape[-1], dtype=self._gram.dtype, device=self._gram.device)
        damped = self._gram + self.ridge * diagonal[:, None, None] * eye
        w_FTS = torch.linalg.solve(damped, self._cross)
        w = w_FTS.permute(2, 1, 0)
        return w if self.is_complex else w[..., 0].float()
