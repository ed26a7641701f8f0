"""What people and machines are told: pure documents, and the terminal."""
