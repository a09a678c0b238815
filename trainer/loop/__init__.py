"""The data-parallel loop in parts: begin, step, evaluate, obey, end."""
