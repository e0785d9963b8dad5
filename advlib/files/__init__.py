"""What lies on disk: where, who is writing, and of which code a number is."""
