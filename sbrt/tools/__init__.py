"""The commands of `sbrt`, and what they measure, predict, print and draw."""
