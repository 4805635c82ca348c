"""What a student can learn from its teacher, as losses."""
