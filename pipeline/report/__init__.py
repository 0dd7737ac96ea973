"""What a person looks at: the report, its plots, the curves."""
