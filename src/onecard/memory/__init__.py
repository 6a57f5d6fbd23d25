"""What a piece of work will need, before it runs."""
