"""A request from the call to its last output: the pair it runs on, the queue, turns, presets."""
