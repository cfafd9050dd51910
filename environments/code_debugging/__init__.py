"""Finding and mending faults in a program, with tests to run."""
