"""Reads models from folders, GGUF files and the hub, with their tokenizers and weights."""
