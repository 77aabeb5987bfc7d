"""The registry of models, their loading, devices and tokens."""
