"""The science: arrays and tensors in, arrays and tensors out. No AnnData, no config, no files."""
