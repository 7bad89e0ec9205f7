#!/usr/bin/env python3
"""Print the number of cells, of peaks and of stored values of an h5ad's X, without loading it."""

import sys

import h5py

with h5py.File(sys.argv[1]) as file:
    counts = file["X"]
    if isinstance(counts, h5py.Group):
        cells, peaks = counts.attrs["shape"]
        stored = counts["data"].shape[0]
    else:
        cells, peaks = counts.shape
        stored = cells * peaks
print(cells, peaks, stored, end="")
