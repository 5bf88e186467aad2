"""The commands of `sbrt`: they measure, predict, print and draw."""
