"""The states of trainings: what each is of, and which of them are kept."""
