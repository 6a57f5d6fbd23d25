"""Files in, samples out; a fault names its file and line."""
