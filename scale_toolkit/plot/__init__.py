"""Figures from an AnnData."""
