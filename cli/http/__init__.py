"""What `endmark serve` and `endmark web` have in common: who asks, what a request may cost, the sockets."""
