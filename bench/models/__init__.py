"""Models that exist to be measured: sizes, random and inflated checkpoints, pairs."""
