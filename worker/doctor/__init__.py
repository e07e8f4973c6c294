"""`endmark doctor`: why would this model not stop? A small sample is run, and checks name the causes."""
