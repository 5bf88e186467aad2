"""`sbrt draft make | eval`: trains a small draft for any target, and measures whether a draft makes
decoding faster."""
