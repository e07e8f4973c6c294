"""Fine-tuning: QLoRA on answers that end with EOS, in a process of its own."""
