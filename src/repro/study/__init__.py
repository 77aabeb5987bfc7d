"""A study: which runs exist, their records, and how missing ones are computed."""
