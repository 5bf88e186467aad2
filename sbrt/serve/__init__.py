"""Serves requests, from the call of the caller to the last output. Loads the models, queues
requests, locks the engine and resolves presets."""
