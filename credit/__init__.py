"""What a turn earned: one method, one file, one class; advantages are pure functions."""
