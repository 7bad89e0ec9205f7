"""SCALE 1.1.2 for its users: names, options, model files and the mathematics of its presets."""
