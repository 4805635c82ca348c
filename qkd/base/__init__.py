"""Ground floor: files, progress, the machine, text templates and the base of all records."""
