"""vLLM as a second engine behind the contract: it runs the model, and each row's draw and verdict are ours."""
