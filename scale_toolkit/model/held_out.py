"""Open peaks hidden from training, and their likelihood under a model: the criterion of early
stopping.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from scale_toolkit.core.rows import RowSource, keep_entries
from scale_toolkit.model.team import ALONE, Team


class Thinned:
    """A row source with a random share of the open peaks of some cells removed and stored as
    `hidden`.

    Parameters
    ----------
    source
        All counts.
    share
        Share of a chosen cell's open peaks to hide; a cell keeps at least one.
    max_cells
        Largest number of cells of which peaks are hidden.
    seed
        Of the choice.
    team
        The processes, each with its own cells: the choice is among all.
    """

    def __init__(
        self, source: RowSource, share: float, max_cells: int, seed: int, team: Team = ALONE
    ) -> None:
        rng = np.random.default_rng(seed)
        self.n_cells, self.n_peaks = source.n_cells, source.n_peaks
        self.base = source
        n_cells = int(team.total(source.n_cells))
        chosen = np.sort(rng.choice(n_cells, min(max_cells, n_cells), replace=False))
        self.cells = team.local(chosen, n_cells)
        rows = source.rows(self.cells)
        lengths_of_all = team.collected(np.diff(rows.indptr))
        lengths = np.concatenate(lengths_of_all)
        pointers = np.concatenate([[0], np.cumsum(lengths)])
        # drawn for the cells of all processes, so that their number does not matter
        hide = rng.random(pointers[-1]) < share
        if len(hide):
            first = np.minimum(
                pointers[:-1] + (rng.random(len(lengths)) * lengths).astype(np.int64),
                len(hide) - 1,
            )
            hide[first[lengths > 0]] = False
        n_before = sum(int(counts.sum()) for counts in lengths_of_all[: team.rank])
        hide = hide[n_before : n_before + rows.nnz]
        self.hidden = keep_entries(rows, hide)
        self.kept = keep_entries(rows, ~hide)
        self._place = np.full(source.n_cells, -1)
        self._place[self.cells] = np.arange(len(self.cells))

    def rows(self, index: np.ndarray) -> sparse.csr_matrix:
        """Return the counts of these cells without the hidden ones."""
        rows = self.base.rows(index)
        position = self._place[index]
        thinned = np.flatnonzero(position >= 0)
        if len(thinned) == 0:
            return rows
        # few of the rows: what lies between them is copied in one piece
        lengths, (indices, data) = np.diff(rows.indptr), ([], [])
        start = 0
        for row in thinned:
            entries = slice(*self.kept.indptr[position[row] : position[row] + 2])
            lengths[row] = entries.stop - entries.start
            stop = rows.indptr[row]
            indices += [rows.indices[start:stop], self.kept.indices[entries]]
            data += [rows.data[start:stop], self.kept.data[entries]]
            start = rows.indptr[row + 1]
        indices.append(rows.indices[start:])
        data.append(rows.data[start:])
        pointers = np.zeros_like(rows.indptr)
        np.cumsum(lengths, out=pointers[1:])
        arrays = np.concatenate(data), np.concatenate(indices), pointers
        return sparse.csr_matrix(arrays, rows.shape)


@torch.no_grad()
def hidden_likelihood(
    hidden: sparse.csr_matrix,
    h: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    offset: torch.Tensor,
    shift: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    """Return the mean log-likelihood of the position of a cell's hidden open peak among all peaks.

    log (p_ij / Σ_j' p_ij'), nats a hidden peak. It is relative to the cell's total, so that neither
    depth nor a model that calls everything open can raise it.

    Parameters
    ----------
    hidden
        Hidden open peaks of some cells, (cells, peaks).
    h, weight, bias, offset
        The decoder's arrays: (cells, d), (peaks, d), (peaks,), (cells,).
    shift
        Shift of the logits of each group of cells, (groups, peaks), and the cells' groups.
    """
    total, count = 0.0, 0
    for start in range(0, hidden.shape[0], 64):
        rows = hidden[start : start + 64]
        if rows.nnz == 0:
            continue
        logits = torch.addmm(bias, h[start : start + 64], weight.T)
        logits += offset[start : start + 64, None]
        if shift is not None:
            logits += torch.from_numpy(shift[0][shift[1][start : start + 64]]).to(h.device)
        cell = torch.from_numpy(np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))).to(
            h.device
        )
        at_hidden = logits[cell, torch.from_numpy(rows.indices.astype(np.int64)).to(h.device)]
        log_total = logits.sigmoid_().sum(1).log()
        total += float((torch.nn.functional.logsigmoid(at_hidden) - log_total[cell]).sum())
        count += rows.nnz
    return total / max(count, 1)
