"""februus: purify the pictures that a possibly backdoored classifier is asked about."""

