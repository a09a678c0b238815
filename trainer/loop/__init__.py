"""The data-parallel loop in parts: begin, step, evaluate, save, obey, end."""
