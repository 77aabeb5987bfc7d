"""Pre-training of the micro models on atlas."""
