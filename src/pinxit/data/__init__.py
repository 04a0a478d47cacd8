"""Pictures with captions: every source, one door for untrusted pictures, one loader."""
