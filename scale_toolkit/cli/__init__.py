"""The command line: a command parses, calls one stage, and translates an error."""
