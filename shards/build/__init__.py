"""How a set is made: planned, written, joined, published."""
