"""Models for benches: sizes, random and inflated checkpoints, pairs."""
