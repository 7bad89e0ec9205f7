"""The stages: AnnData and options in, AnnData out. One file a subcommand; no paths, no streams,
no printing.
"""
