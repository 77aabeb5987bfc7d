"""Fine-tuning: prompts, batches, all parameters or LoRA."""
