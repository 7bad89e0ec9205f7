"""The stages: AnnData and options in, AnnData out. One file for each subcommand; no paths, no
streams, no printing.
"""
