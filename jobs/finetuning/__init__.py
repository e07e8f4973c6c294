"""What a fine-tuning is asked for and what it makes: requests, chats as examples, adapters."""
