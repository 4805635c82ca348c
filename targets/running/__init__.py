"""Running a library: host, emulators, boards; counting what it executes."""
