"""What the app does in the background for its operator, as lines on the screen."""
