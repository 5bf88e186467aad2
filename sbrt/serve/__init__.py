"""Handles a request from the call to its last output: the models, the queue, the engine's lock,
presets."""
