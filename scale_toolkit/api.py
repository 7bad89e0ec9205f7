"""`SCALE`: the model as an object, as in scvi-tools. It calls the stages and computes nothing
itself.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_toolkit import keys
from scale_toolkit.bars import bar
from scale_toolkit.config import TrainConfig
from scale_toolkit.errors import InputError, OptionError, UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from scale_toolkit.stages.imputed import Imputed

__all__ = ["SCALE"]

# File names in the folder of `save`, as in that of `scale run`.
MODEL, CELLS = "model.pt", "adata.h5ad"
_CURVES = ("loss", "reconstruction", "divergence", "held_out")


class SCALE:
    """SCALE (Xiong et al. 2019, Nat Commun 10:4576): a variational autoencoder of peaks with a
    Gaussian-mixture prior.

    The object holds the AnnData, the options and the trained model. All results are also in the
    AnnData, in the slots that the functions of `scale_toolkit` read and write, so both can be
    combined.

    Parameters
    ----------
    adata
        Counts in ``X``, cells × peaks, as `scale_toolkit.pp.prepare` leaves them. If
        ``var['selected']`` marks peaks, the model sees only those. No set-up is needed. `train`
        writes into it; of a view, a copy is taken.
    n_components
        Components of the mixture, 1 or more: about as many as there are clusters.
    **options
        Further options of `scale_toolkit.train`: ``preset``, ``latent``, ``lr``, ``seed``,
        ``device``, ``n_threads``, …

    Attributes
    ----------
    adata
        The cells.
    config
        The options (`scale_toolkit.config.TrainConfig`).
    is_trained
        Whether `train` or `load` was called.

    Raises
    ------
    OptionError
        An option is unknown or out of range.

    Examples
    --------
    >>> model = SCALE(adata, n_components=8)  # doctest: +SKIP
    >>> model.train(max_epochs=40)  # doctest: +SKIP
    >>> adata.obsm["X_scale"] is model.get_latent_representation()  # doctest: +SKIP
    >>> model.get_imputed()[:, "chr1:1000-1500"]  # doctest: +SKIP
    """

    def __init__(self, adata: AnnData, n_components: int = 30, **options: Any) -> None:
        self.config: TrainConfig = _config(TrainConfig(), {"n_components": n_components, **options})
        self.adata: AnnData = adata
        self._trained_with: TrainConfig | None = None
        self._model: bytes | None = None
        # names for a model of SCALE 1.1.2
        self._peaks: Callable[[], list[str] | None] | None = None

    @property
    def is_trained(self) -> bool:
        """Whether there is a trained model."""
        return self._model is not None

    def train(
        self,
        max_epochs: int | None = None,
        *,
        early_stopping: bool = True,
        early_stopping_patience: int | None = None,
        progress: bool | Callable[[str, int, int], None] = True,
        **options: Any,
    ) -> None:
        """Train the model, from the beginning each time; `scale_toolkit.train` does the work.

        Parameters
        ----------
        max_epochs
            Upper bound on the number of epochs, 1 or more; None: that of the preset (60 for
            ``fast``).
        early_stopping
            End when the likelihood of held-out open peaks no longer rises, and keep the best epoch.
            (``preset="release"`` never does, as release 1.1.2.) False: train to the bound.
        early_stopping_patience
            Epochs without a rise after which it ends, 1 or more; None: the preset's (5 for
            ``fast``).
        progress
            Show a bar with the time left, on a terminal or in a notebook; or a function, called
            after each epoch with a message, the epochs done and the epochs at most.
        **options
            Options of `scale_toolkit.train` for this training only (``lr``, ``batch_size``, …); the
            next one starts again from those the object was made with.

        Notes
        -----
        Writes into ``adata``: ``obsm['X_scale']`` (cells × latent, float32; also under SCALE's name
        ``obsm['latent']``), ``obsm['scale_posterior']`` (cells × components, float32),
        ``obs['scale_component']``, ``varm['scale_decoder']``, ``var['scale_bias']``,
        ``obs['scale_offset']``, ``obs['scale_open_rate']``, ``var['scale_open_rate']``,
        ``uns['scale_mixture']``, ``uns['scale_history']``, a receipt in ``uns['scale']``; with
        ``decode_dim`` also ``obsm['scale_hidden']``. See `scale_toolkit.train`.

        Raises
        ------
        OptionError
            An option is unknown, out of range, or contradicts another.
        InputError
            ``X`` holds no counts, or fewer than two cells.
        DeviceError
            The requested device is not available.
        TrainingError
            The loss was not a number in the first epoch.
        """
        from scale_toolkit import tl

        if not early_stopping:
            if early_stopping_patience is not None:
                raise OptionError(
                    "early_stopping is False and early_stopping_patience is given", "one of the two"
                )
            options.setdefault("patience", 0)
        elif early_stopping_patience is not None:
            options.setdefault("patience", early_stopping_patience)
        if max_epochs is not None:
            options["max_epochs"] = max_epochs
        config = _config(self.config, options)
        models: list[bytes] = []
        with bar() if progress is True else nullcontext(progress or None) as report:
            tl.train(self.adata, progress=report, keep_model=models.append, **_options(config))
        self._trained_with, self._model, self._peaks = config, models[-1], None

    def get_latent_representation(self, adata: AnnData | None = None) -> np.ndarray[Any, Any]:
        """Return the posterior means of z, (cells, latent) float32.

        Parameters
        ----------
        adata
            Other cells, encoded with this model without being changed (`scale_toolkit.encode`;
            peaks are matched by name); None: the model's own, whose array is
            ``adata.obsm['X_scale']``.

        Raises
        ------
        UsageError
            The model is not trained.
        InputError
            `adata` shares no peak with the model.
        """
        import numpy as np

        return np.asarray(keys.LATENT.get(self._cells(adata)))

    def get_imputed(self, adata: AnnData | None = None, *, depth: str = "equal") -> Imputed:
        """Return the probability that each peak is open in each cell, as a matrix that is decoded
        when it is sliced.

        Parameters
        ----------
        adata
            Other cells, encoded with this model without being changed; None: the model's own.
        depth
            ``"equal"``: values at the median depth of the model's own cells, which can be
            compared between cells; ``"own"``: at the depth of each cell.

        Returns
        -------
        Imputed
            Cells × modelled peaks, values in [0, 1]: ``model.get_imputed()["cell1",
            "chr1:1000-1500"]``; see `scale_toolkit.imputed`. Nothing is written.

        Raises
        ------
        UsageError
            The model is not trained.
        """
        from scale_toolkit.stages.imputed import imputed

        return imputed(self._cells(adata), depth=depth)

    def predict(
        self, adata: AnnData | None = None, *, soft: bool = False
    ) -> pd.Series[Any] | pd.DataFrame:
        """Return the mixture component of each cell, or how responsible each component is for it.

        Clusters of an exact number, by Leiden, k-means or the mixture, come from
        `scale_toolkit.cluster`.

        Parameters
        ----------
        adata
            Other cells, encoded with this model without being changed; None: the model's own.
        soft
            Return responsibilities instead of the most responsible component.

        Returns
        -------
        A Series (category, the cells as index) as in ``obs['scale_component']``; with `soft` a
        DataFrame, cells × components, of float32 in [0, 1] whose rows sum to 1, as in
        ``obsm['scale_posterior']``.

        Raises
        ------
        UsageError
            The model is not trained.
        """
        import pandas as pd

        cells = self._cells(adata)
        if not soft:
            return pd.Series(keys.COMPONENT.get(cells), name=keys.COMPONENT.name).copy()
        posterior = keys.POSTERIOR.get(cells)
        return pd.DataFrame(
            posterior, index=cells.obs_names, columns=[str(c) for c in range(posterior.shape[1])]
        )

    @property
    def history(self) -> pd.DataFrame:
        """The learning curves: a row an epoch, columns ``loss``, ``reconstruction`` and
        ``divergence`` (nats a cell, mean).

        With early stopping also ``held_out``, the mean log-likelihood of the held-out open peaks,
        which begins with the start's own, in row 0. Empty if the model was loaded without the
        AnnData it was trained on.
        """
        import numpy as np
        import pandas as pd

        self._trained()
        curves = keys.HISTORY.get(self.adata) if keys.HISTORY.found_in(self.adata) else {}
        n_epochs = len(curves.get("loss", ()))
        first = 0 if len(curves.get("held_out", ())) > n_epochs else 1
        table = pd.DataFrame(index=pd.RangeIndex(first, n_epochs + 1, name="epoch"))
        # a file may store the curves in another order
        for name in sorted(curves, key=_CURVES.index):
            curve = curves[name]
            table[name] = np.concatenate([np.full(len(table) - len(curve), np.nan), curve])
        return table

    def save(
        self,
        dir_path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        save_anndata: bool = False,
    ) -> None:
        """Write the model to the folder `dir_path`, which is made if it is missing, as
        ``model.pt``.

        Parameters
        ----------
        dir_path
            The folder; ``scale train --pretrain dir_path/model.pt`` encodes with what is written
            too.
        overwrite
            Replace existing files.
        save_anndata
            Write the cells as well, as ``adata.h5ad``.

        Raises
        ------
        UsageError
            The model is not trained, or a file exists.
        ScaleError
            The disk is full or refuses the write; a file appears completely or not at all.
        """
        from scale_toolkit.io.files import private_folder, write_bytes
        from scale_toolkit.io.h5ad import write_h5ad

        model, folder = self._trained(), Path(dir_path)
        names = [CELLS, MODEL] if save_anndata else [MODEL]
        existing = [name for name in names if (folder / name).exists()]
        if existing and not overwrite:
            raise UsageError(
                f"{folder / existing[0]} exists",
                "a new folder",
                "give overwrite=True to replace it",
            )
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file", "a folder", "choose another name")
        if save_anndata:
            _check_writable(self.adata)
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # both files are complete before the first of them is renamed
            with private_folder(folder, MODEL) as private:
                if save_anndata:
                    write_h5ad(self.adata, private / CELLS)
                write_bytes(private / MODEL, model)
                for name in names:
                    (private / name).replace(folder / name)
        except BaseException:
            if is_new:
                with suppress(OSError):
                    folder.rmdir()
            raise

    @classmethod
    def load(
        cls, dir_path: str | os.PathLike[str], adata: AnnData | None = None, **options: Any
    ) -> SCALE:
        """Read a model that `save`, ``scale run``, ``scale train --model`` or SCALE 1.1.2 has
        written. No code in it is run.

        Parameters
        ----------
        dir_path
            The folder, or the model file itself. (SCALE 1.1.2's needs its ``adata.h5ad`` beside it,
            for the peaks' names.)
        adata
            Cells. Those that the model was trained on are taken as they are; others are encoded
            (`scale_toolkit.encode`), which writes into them. None: those of ``adata.h5ad`` in the
            folder.
        **options
            ``device``, ``n_threads`` and ``seed``, to use other values than those of the training.

        Raises
        ------
        InputError
            The file is missing or not a model of this package; no cells, or cells that share no
            peak with it.
        """
        from scale_toolkit import tl
        from scale_toolkit.io.files import existing_file
        from scale_toolkit.io.h5ad import open_h5ad
        from scale_toolkit.io.regions import model_peaks
        from scale_toolkit.stages.encode import made_by, options_of

        path = Path(dir_path)
        file = existing_file(path / MODEL if path.is_dir() else path)
        data = file.read_bytes()
        if adata is None:
            if not file.with_name(CELLS).is_file():
                raise InputError(
                    f"{file} comes without cells",
                    f"adata, or {CELLS} beside it",
                    "give the cells as adata",
                )
            with open_h5ad(file.with_name(CELLS)) as cells:
                adata = cells.read()
        # the device and the cores of the training may be missing on this machine
        machine = {"device": "auto", "n_threads": 0}
        model = cls(adata, **options_of(data) | machine | options)
        model._model, model._peaks = data, model_peaks(file, None)
        if not made_by(adata, data):
            tl.encode(adata, model=data, peaks=model._peaks, **_options(model.config))
        return model

    def __repr__(self) -> str:
        size = f"SCALE: {self.adata.n_obs:,} cells × {self.adata.n_vars:,} peaks"
        config = self._trained_with or self.config
        latent = config.latent or "by the data"
        parts = [
            size,
            f"{config.n_components} components",
            f"latent {latent}",
            f"preset {config.preset}",
        ]
        if not self.is_trained:
            return ", ".join([*parts, "not trained"])
        epochs = (
            len(keys.HISTORY.get(self.adata)["loss"]) if keys.HISTORY.found_in(self.adata) else 0
        )
        return ", ".join([*parts, f"trained for {epochs} epochs" if epochs else "trained"])

    def _trained(self) -> bytes:
        """Return the model's bytes; raise `UsageError` if the model is not trained."""
        if self._model is None:
            raise UsageError(
                "the model is not trained", "a trained model", "call train() first, or SCALE.load()"
            )
        return self._model

    def _cells(self, adata: AnnData | None) -> AnnData:
        """Cells with the slots of `train`: the model's own, or others, encoded beside their
        AnnData.
        """
        data = self._trained()
        if adata is None or adata is self.adata:
            return self.adata
        from anndata import AnnData

        from scale_toolkit.stages.counts import counts_of
        from scale_toolkit.stages.encode import encode

        # encode only reads X, so that the copy may share it
        beside = AnnData(counts_of(adata), obs=adata.obs[[]].copy(), var=adata.var[[]].copy())
        encoded = encode(beside, self._trained_with or self.config, model=data, peaks=self._peaks)
        if keys.MEDIAN_OFFSET.found_in(self.adata):
            # equal depth is that of the model's own cells, so that values can be compared
            keys.MEDIAN_OFFSET.set(encoded, keys.MEDIAN_OFFSET.get(self.adata))
        return encoded


def _check_writable(adata: AnnData) -> None:
    """Raise `InputError` for a column of mixed types, which no h5ad file can hold."""
    import pandas as pd

    for axis in ("obs", "var"):
        table = getattr(adata, axis)
        for name in table.columns:
            if table[name].dtype == object and pd.api.types.infer_dtype(table[name]).startswith(
                "mixed"
            ):
                raise InputError(
                    f"{axis}[{name!r}] holds values of different types",
                    "a column of one type, which an h5ad file can hold",
                    f"convert it first: adata.{axis}[{name!r}] = "
                    f"adata.{axis}[{name!r}].astype(str)",
                )


def _options(config: TrainConfig) -> dict[str, Any]:
    return {spec.name: getattr(config, spec.name) for spec in fields(config)}


def _config(config: TrainConfig, options: dict[str, Any]) -> TrainConfig:
    """Return `config` with some options replaced, or raise an error that lists those that exist."""
    known = [spec.name for spec in fields(TrainConfig)]
    for name in options:
        if name not in known:
            raise OptionError(f"unknown option {name!r}", "one of " + ", ".join(sorted(known)))
    return replace(config, **options)
