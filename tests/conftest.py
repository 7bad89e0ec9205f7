"""Fixtures for every room: the real data where it is present, and small planted data made here."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from h5py._objects import phil
from hypothesis import settings
from scipy import sparse

from scale_toolkit import scratch
from scale_toolkit.errors import ScaleError

settings.register_profile("scale", deadline=None)  # nothing here is timed
settings.load_profile("scale")

_ERRORS_SPEC = importlib.util.spec_from_file_location("make_errors", Path(__file__).parents[1] / "docs" / "make_errors.py")
make_errors = importlib.util.module_from_spec(_ERRORS_SPEC)
_ERRORS_SPEC.loader.exec_module(make_errors)

DATA = Path(os.environ.get("SCALE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


class Errors:
    """Note which errors each test triggers; with SCALE_ERRORS_HOLD, hold the tests to tests/error_triggers.tsv."""

    def __init__(self) -> None:
        self.sites, self.current = make_errors.lookup(), set()
        self.expected: dict[str, set[tuple[str, ...]]] = {}
        for key, test in make_errors.triggers().items():
            self.expected.setdefault(test, set()).add(key)
        self.seen: dict[tuple[str, ...], set[str]] = {}
        plain = ScaleError.__init__

        def noted(error: ScaleError, *words: str, **named: str) -> None:
            frame = sys._getframe(1)
            file = Path(frame.f_code.co_filename).as_posix().rpartition("/scale_toolkit/")[2]
            self.current.update(key for first, last, key in self.sites.get(file, []) if first <= frame.f_lineno <= last)
            plain(error, *words, **named)

        ScaleError.__init__ = noted

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        self.current = set()  # what fixtures do is not the test's
        result = yield
        if getattr(item.function, "is_hypothesis_test", False):
            return result  # other examples, other errors
        for key in self.current:
            self.seen.setdefault(key, set()).add(item.nodeid)
        missing = self.expected.get(item.nodeid, set()) - self.current if os.environ.get("SCALE_ERRORS_HOLD") else set()
        assert not missing, f"this test no longer triggers {missing}: see docs/make_errors.py"
        return result

    def pytest_sessionfinish(self):
        folder = os.environ.get("SCALE_ERRORS_SEEN")
        if folder and self.seen:
            Path(folder).mkdir(parents=True, exist_ok=True)
            notes = {"\t".join(key): sorted(tests) for key, tests in self.seen.items()}
            Path(folder, f"{os.getpid()}.json").write_text(json.dumps(notes), encoding="utf-8")


def pytest_configure(config):
    if ScaleError.__init__.__name__ != "noted":
        config.pluginmanager.register(Errors(), "scale-errors")


@pytest.fixture(autouse=True)
def free_lock_of_h5py():
    """Release h5py's global lock if a test left it held by this thread.

    Nothing would notice in this thread (the lock is re-entrant), but zarr's thread waits for it
    for ever when its garbage collection frees an HDF5 object: `test_zarr_store.py` once hung so.
    """
    yield
    while phil._is_owned():
        phil.release()


@pytest.fixture(scope="session")
def data_path():
    """Return ``data_path(name)``: the path of a real data file, or skip where the shared data is absent."""

    def path(name: str) -> Path:
        file = DATA / name
        if not file.exists():
            pytest.skip(f"real data not here: {file} (set SCALE_TEST_DATA to its folder)")
        return file

    return path


@pytest.fixture
def real(data_path):
    """Return ``real(name)``: one real data set as AnnData, or skip."""

    def read(name: str) -> anndata.AnnData:
        return anndata.read_h5ad(data_path(f"{name}.h5ad"))

    return read


def planted_cells(n_cells=120, n_peaks=300, n_clusters=3, seed=0, open_share=0.08) -> anndata.AnnData:
    """Small counts with planted clusters: each cluster has its own tenth of the peaks open five times as often."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_cells) % n_clusters
    rate = np.clip(rng.gamma(2, open_share / 2, n_peaks), 0.01, 0.5)[None, :].repeat(n_clusters, 0)
    for cluster in range(n_clusters):
        rate[cluster, cluster::10] *= 5
    depth = rng.lognormal(0, 0.3, n_cells)[:, None]
    is_open = rng.random((n_cells, n_peaks)) < np.clip(rate[labels] * depth, 0, 0.95)
    counts = is_open * rng.integers(1, 4, is_open.shape)
    names = [f"chr{1 + j % 3}:{1000 * j}-{1000 * j + 500}" for j in range(n_peaks)]
    return anndata.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(
            {"cell_type": pd.Categorical([f"type{c}" for c in labels])}, index=[f"cell{i}" for i in range(n_cells)]
        ),
        var=pd.DataFrame(index=names),
    )


@pytest.fixture
def planted() -> anndata.AnnData:
    """120 cells × 300 peaks of counts in 3 planted clusters (``obs['cell_type']``)."""
    return planted_cells()


@pytest.fixture(scope="session")
def plant():
    """Return `planted_cells`, to make planted data of another size."""
    return planted_cells


@pytest.fixture
def no_memory(monkeypatch):
    """Every array of more than 1,000 bytes goes to a file."""
    monkeypatch.setattr(scratch, "SMALL", 1000)
    monkeypatch.setattr(scratch, "SHARE_IN_MEMORY", 1e-12)
    monkeypatch.setattr(scratch, "in_memory", lambda folder: False)
