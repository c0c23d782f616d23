"""One question: its searches, how they go, and what they answer; for a terminal and a server."""
