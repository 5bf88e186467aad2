"""Models as people have them: folders, GGUF files and hub names, their tokenizers and weights."""
