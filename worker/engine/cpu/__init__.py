"""What makes the plain path fast on a CPU: weights laid out for its products, and blocks without modules."""
