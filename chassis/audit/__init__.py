"""So that nothing goes unaudited: a service writes each call down on its own disk, then hands it over to auth."""
