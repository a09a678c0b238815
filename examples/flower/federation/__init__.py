"""A Flower app that runs a federation of opsdash."""
