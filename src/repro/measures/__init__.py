"""What is measured of a model: mastery, accuracy, divergence, task scores."""
