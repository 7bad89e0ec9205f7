"""The arithmetic on arrays (NumPy, SciPy, numba, scikit-learn): no AnnData, no options, no
files.
"""
