"""One's own annotations as a table: `source` puts together what `formats`, `columns`, `sorting` and `rows` know."""
