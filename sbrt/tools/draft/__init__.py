"""`sbrt draft make | eval`: trains a small draft for any target, and measures if a draft pays."""
