"""The steps of the method, one function each: plain arguments in, artifact out. No configuration objects."""
