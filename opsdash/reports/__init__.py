"""Say what is known of a run as text for people and JSON for programs."""
