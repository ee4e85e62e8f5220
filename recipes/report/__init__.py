"""What people see of a run: tables, curves, transcripts. Reads run folders only."""
