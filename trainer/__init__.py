"""Train data-parallel or in federated rounds, and survive being killed."""
