"""Third-party clients of `sbrt serve`, each unmodified and in its own Python environment."""
