"""Helpers that several folders of tests share: fixtures (`tiny`, `nvcc`) and engines over the toy
pair (`toys`)."""
