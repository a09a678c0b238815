"""Neural networks small enough to train on two cores in a minute."""
