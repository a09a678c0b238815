"""Federated rounds: server, clients, and what happens when one comes back."""
