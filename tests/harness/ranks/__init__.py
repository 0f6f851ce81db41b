"""Small programs that tests have agents run."""
