"""Operations on built sets: info, verify, hold-out, merge."""
