"""Reads models, their tokenizers and their weights from folders, GGUF files and the Hugging Face
hub."""
