"""Models in folders, GGUF files and on the hub, with their tokenizers and weights."""
