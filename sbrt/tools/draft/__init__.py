"""`sbrt draft make | eval`: a small draft for any target, and whether it pays."""
